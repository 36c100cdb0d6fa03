// Latency: every timing of a route and backend, the states of its ledger, and its requests over time.

import { get, stored } from "../lib/api.js";
import { empty, h, table } from "../lib/dom.js";
import { heatMap } from "../lib/heat.js";
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
    location.hash = `#/latency?${new URLSearchParams({ ...Object.fromEntries(params), route, backend, operation })}`;
  };
  const over = await overTime(row, params);
  return {
    title,
    refreshes: true,
    content: [
      h("h1", {}, title, h("small", {}, " since the start")),
      h("form", { class: "filters", onsubmit: (event) => event.preventDefault() },
        h("label", {}, "Route, backend and operation", h("select", { onchange: go }, routes.map((one) =>
          h("option", { value: key(one), selected: one === row }, [one.route, one.backend, one.operation].filter(Boolean).join(" / "))))),
        h("a", { href: `#/requests?${new URLSearchParams({ route: row.route, backend: row.backend })}` }, "Its requests")),
      h("section", { class: "card" }, ledger(row), engineReport(row)),
      over,
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

/** What engines report of their time to first token, as means of the requests with a report. */
function engineReport(row) {
  const parts = [["engine_queue", "queue of the engine", "--engine_queue"], ["engine_prefill", "prefill", "--prefill"], ["engine_unexplained", "network and unknown", "--connect"]]
    .map(([id, name, color]) => ({ id, name, color, timing: row.timings[id] })).filter(({ timing }) => timing?.count > 0);
  if (parts.length === 0) return null;
  const total = parts.reduce((sum, { timing }) => sum + timing.mean_us, 0);
  let before = 0;
  const rows = parts.map(({ id, name, color, timing }) => {
    const share = total > 0 ? timing.mean_us / total : 0;
    const left = before;
    before += share;
    return [
      h("span", {}, h("a", { href: `#/definitions?of=${id}` }, name), h("small", { class: "notice" }, ` ${samples(timing.count)}`)),
      h("span", { class: "track", "aria-hidden": "true" }, h("i", { style: { left: `${100 * left}%`, width: `${100 * share}%`, background: `var(${color})` } })),
      h("span", { class: "number" }, duration(timing.mean_us)),
      h("span", { class: "number share" }, percent(share)),
    ];
  });
  return h("div", {}, h("h2", {}, "Time to first token, as the engine reports it"), h("div", { class: "waterfall" }, rows));
}

const HEAT_TIMINGS = [["client_ttft", "Client TTFT"], ["engine_ttft", "Engine TTFT"], ["tpot", "TPOT"], ["total", "Duration"]];
const HEAT_RANGES = [["1h", "hour", 60, 3600], ["6h", "6 hours", 300, 6 * 3600], ["1d", "day", 900, 86_400], ["7d", "7 days", 6 * 3600, 7 * 86_400]];

/** The heat map of the stored requests. */
async function overTime(row, params) {
  const chosen = (all, name) => all.find(([id]) => id === params.get(name)) ?? all[0];
  const [timing, title] = chosen(HEAT_TIMINGS, "timing");
  const [from, , step, range] = chosen(HEAT_RANGES, "from");
  const { data, problem } = await stored("/api/charts", { from, step: `${step}s`, cells: timing, route: row.route, backend: row.backend });
  const card = (...content) => h("section", { class: "card" }, h("h2", {}, h("a", { href: `#/definitions?of=${timing}` }, title), " over time", h("small", {}, " stronger cells have more requests; a cell leads to them")), content);
  if (problem) return card(empty(`Stored records cannot be read: ${problem}.`));
  if (!data) return card(empty("A heat map needs stored records. Set ", h("code", {}, "record_store: {path: FOLDER}"), " in the settings and restart the gateway."));
  const go = (event) => {
    const form = Object.fromEntries(new FormData(event.currentTarget));
    location.hash = `#/latency?${new URLSearchParams({ ...Object.fromEntries(params), ...form })}`;
  };
  const select = (name, label, all, value) => h("label", {}, label, h("select", { name }, all.map(([id, text]) => h("option", { value: id, selected: id === value }, text))));
  const form = h("form", { class: "filters", onchange: go, onsubmit: (event) => event.preventDefault() }, select("timing", "Timing", HEAT_TIMINGS, timing), select("from", "The last", HEAT_RANGES, from));
  const iso = (at) => new Date(at * 1000).toISOString();
  const filter = { client_ttft: "ttft_over", total: "slower_than" }[timing];
  const link = (since, until, us) => `#/requests?${new URLSearchParams({ route: row.route, backend: row.backend ?? "", from: iso(since), to: iso(until), ...(filter ? { [filter]: `${us}us` } : {}) })}`;
  const points = (data.series[0]?.points ?? []).filter((point) => point.cells.length > 0);
  const map = points.length > 0 ? heatMap(title, points, step, range, link) : [empty("No request of this route and backend in this time.")];
  return card(form, map);
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
