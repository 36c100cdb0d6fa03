// Latency: every timing of a route and backend, and the states of its ledger.

import { get } from "../lib/api.js";
import { empty, h, table } from "../lib/dom.js";
import { duration, number, percent, samples } from "../lib/format.js";
import { OWNERS, stateColor, stateName, stateOwner, STATES } from "../lib/states.js";
import { DEFINITIONS } from "../lib/definitions.js";

export async function make({ params }) {
  const { routes } = await get("/api/routes");
  const key = (row) => JSON.stringify([row.route, row.backend, row.operation]);
  const wanted = (row) => (!params.get("route") || row.route === params.get("route")) && (params.get("backend") === null || row.backend === params.get("backend"));
  const row = routes.find((one) => wanted(one) && (!params.get("operation") || one.operation === params.get("operation"))) ?? routes[0];
  const title = "Latency";
  if (!row) return { title, refreshes: true, content: [h("h1", {}, title), empty("No request yet. Send one to the gateway: clients only change their base URL.")] };
  const go = (event) => {
    const [route, backend, operation] = JSON.parse(event.currentTarget.value);
    location.hash = `#/latency?${new URLSearchParams({ route, backend, operation })}`;
  };
  return {
    title,
    refreshes: true,
    content: [
      h("h1", {}, title, h("small", {}, " since the start")),
      h("form", { class: "filters", onsubmit: (event) => event.preventDefault() },
        h("label", {}, "Route, backend and operation", h("select", { onchange: go }, routes.map((one) =>
          h("option", { value: key(one), selected: one === row }, [one.route, one.backend, one.operation].filter(Boolean).join(" / "))))),
        h("a", { href: `#/requests?${new URLSearchParams({ route: row.route, backend: row.backend })}` }, "Its requests")),
      h("section", { class: "card" }, ledger(row)),
      h("section", { class: "card" }, timings(row)),
    ],
  };
}

/** The mean request as a waterfall: the parts close to the total. */
function ledger(row) {
  const total = row.timings.total?.mean_us ?? 0;
  let before = 0;
  const rows = STATES.filter(([id]) => (row.ledger_share[id] ?? 0) > 0).map(([id]) => {
    const share = row.ledger_share[id];
    const left = before;
    before += share;
    return [
      h("span", {}, stateName[id], " ", h("small", { class: "notice" }, `(${OWNERS[stateOwner[id]]})`)),
      h("span", { class: "track", "aria-hidden": "true" }, h("i", { style: { left: `${100 * left}%`, width: `${100 * share}%`, background: stateColor(id) } })),
      h("span", { class: "number" }, duration(share * total)),
      h("span", { class: "number share" }, percent(share)),
    ];
  });
  return [
    h("h2", {}, h("a", { href: "#/definitions?of=ledger" }, "The mean request"), h("small", {}, ` ${samples(row.requests)}; states in their usual order`)),
    h("div", { class: "waterfall" }, rows,
      h("span", { class: "sum" }, "total"), h("span", { class: "sum" }, " "), h("span", { class: "number sum" }, duration(total)), h("span", { class: "number sum share" }, percent(before))),
  ];
}

function timings(row) {
  const known = Object.keys(DEFINITIONS);
  const names = Object.keys(row.timings).sort((a, b) => (known.indexOf(a) + 1 || 99) - (known.indexOf(b) + 1 || 99));
  const cells = names.map((name) => {
    const one = row.timings[name];
    const shown = [one.mean_us, one.p50_us, one.p90_us, one.p95_us, one.p99_us, one["p99.9_us"]].map(duration);
    return [h("a", { href: `#/definitions?of=${name}` }, DEFINITIONS[name]?.name ?? name), number(one.count), ...shown];
  });
  const heads = ["Count", "Mean", "p50", "p90", "p95", "p99", "p99.9"];
  return table("Timings", [{ head: "Timing", text: true }, ...heads.map((head) => ({ head }))], cells);
}
