// Guardrails: what security costs, by route and filter, and what it finds.

import { get } from "../lib/api.js";
import { empty, h, list, table } from "../lib/dom.js";
import { duration, number, percent, samples } from "../lib/format.js";

export async function make() {
  const { routes } = await get("/api/guardrails");
  const title = "Guardrails";
  if (routes.length === 0) {
    return { title, refreshes: true, content: [h("h1", {}, title), empty("No request has passed a guardrail. Define one under ", h("code", {}, "guardrails:"), " and name it as ", h("code", {}, "guardrail:"), " of a route.")] };
  }
  return { title, refreshes: true, content: [h("h1", {}, title, h("small", {}, " since the start")), ...routes.map(route)] };
}

function route(row) {
  const { client_ttft, overhead } = row;
  const rules = (found) => Object.entries(found).sort((a, b) => b[1] - a[1]).map(([rule, count]) => `${rule} (${number(count)})`).join(", ");
  const added = overhead.added_ttft;
  return h("section", { class: "card" },
    h("h2", {}, [row.route, row.backend, row.operation].filter(Boolean).join(" / "), h("small", {}, ` ${samples(row.requests)}`)),
    list([
      ["Client TTFT p95", client_ttft ? `${duration(client_ttft.p95_us)}, of which guardrails add ${duration(added?.p95_us)} (p95 of the added time)` : null],
      ["Prompt check p95", duration(overhead.validation?.p95_us)],
      ["Answer check p95", duration(overhead.output_filtering?.p95_us)],
      ["Hold p95", overhead.hold ? `${duration(overhead.hold.p95_us)} in sum over an answer` : null],
      ["Share of the time", row.security_impact_percent === undefined || row.security_impact_percent === null ? null : h("a", { href: "#/definitions?of=guardrail" }, percent(row.security_impact_percent / 100))],
      ["Blocked", `${number(row.blocked)} of ${number(row.requests)}`],
      ["Found in prompts", rules(row.found_in)],
      ["Found in answers", rules(row.found_out)],
    ]),
    table(`Filters of ${[row.route, row.backend, row.operation].filter(Boolean).join(" / ")}`, [
      { head: "Filter", text: true }, { head: "Side", text: true }, { head: "Calls" }, { head: "Verdicts", text: true }, { head: "p50" }, { head: "p95" }, { head: "p99" }, { head: "CPU p95" }, { head: "Remote p95" }, { head: "Critical" },
    ], row.filters.map((filter) => [
      filter.filter, filter.side, number(filter.calls), Object.entries(filter.verdicts).map(([verdict, count]) => `${verdict} ${number(count)}`).join(", "),
      duration(filter.parts.wall.p50_us), duration(filter.parts.wall.p95_us), duration(filter.parts.wall.p99_us), duration(filter.parts.cpu.p95_us), duration(filter.parts.remote.p95_us), percent(filter.critical_share, 0),
    ])));
}
