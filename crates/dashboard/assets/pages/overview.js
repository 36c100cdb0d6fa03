// The overview: what is wrong and whose fault it is, the figures of the last minutes, and where the time goes.

import { get, stored } from "../lib/api.js";
import { empty, h, table } from "../lib/dom.js";
import { duration, FEW, number, percent, ratio, samples } from "../lib/format.js";
import { chart } from "../lib/plot.js";
import { shareBar, stateLegend } from "../lib/shares.js";
import { verdict } from "../lib/verdict.js";

const WINDOWS = [["1m", "1 minute"], ["5m", "5 minutes"], ["15m", "15 minutes"], ["start", "since the start"]];
const definition = (id, text) => h("a", { href: `#/definitions?of=${id}` }, text);

export async function make({ params }) {
  const window = WINDOWS.some(([id]) => id === params.get("window")) ? params.get("window") : "5m";
  const route = params.get("route") ?? "";
  const step = { "1m": 60, "5m": 300 }[window] ?? 900;
  const [stats, all, objectives, routes, backends, sinks, series, steps] = await Promise.all([
    get("/api/stats", { window, by: "route,backend", route }),
    get("/api/stats", { window, by: "route" }),
    get("/api/objectives", { route }),
    get("/api/routes"),
    get("/api/backends"),
    get("/api/sinks"),
    stored("/api/charts", { from: "1h", step: "1m", route }),
    stored("/api/charts", { from: `${3 * step}s`, step: `${step}s`, route }),
  ]);
  const groups = stats.windows[0].groups;
  const byRoute = all.windows[0].groups;
  const names = byRoute.map((group) => group.route).sort();
  const ledgers = routes.routes.filter((row) => !route || row.route === route);
  const points = series.data?.series[0]?.points ?? [];
  return {
    title: "Overview",
    refreshes: true,
    content: [
      h("h1", {}, "Overview ", h("small", {}, WINDOWS.find(([id]) => id === window)[1])),
      h("section", { class: "card verdict", "aria-label": "Verdict" },
        verdict({ groups: byRoute.filter((group) => !route || group.route === route), perBackend: groups, objectives: objectives.objectives, backends: backends.backends, sinks: sinks.sinks, ledgers })),
      filters(window, route, names),
      figures(groups, objectives.objectives, stats.windows[0].covered_s, before(steps, step), ledgers, backends.backends),
      h("section", { class: "two" }, charts(points, series)),
      h("section", { class: "card" }, whereTheTimeGoes(groups, ledgers)),
      errorsByKind(groups),
    ].filter(Boolean),
  };
}

function filters(window, route, names) {
  const go = (event) => {
    const form = new FormData(event.currentTarget);
    location.hash = `#/?${new URLSearchParams([...form].filter(([, value]) => value !== ""))}`;
  };
  const options = (all, chosen) => all.map(([id, title]) => h("option", { value: id, selected: id === chosen }, title));
  return h("form", { class: "filters", onchange: go, onsubmit: (event) => event.preventDefault() },
    h("label", {}, "Window", h("select", { name: "window" }, options(WINDOWS, window))),
    h("label", {}, "Route", h("select", { name: "route" }, options([["", "all"], ...names.map((name) => [name, name])], route))));
}

/** The last full step and the one before it, of all requests that are stored. */
function before({ data }, step) {
  const points = data?.series[0]?.points ?? [];
  // The newest step has not ended.
  const open = Math.floor(Date.now() / 1000 / step) * step;
  const at = (start) => points.find((point) => point.at_s === start);
  const [last, earlier] = [at(open - step), at(open - 2 * step)];
  const minutes = step === 60 ? "minute" : `${step / 60} minutes`;
  return (of) => {
    const change = last && earlier ? ratio(of(last), of(earlier)) : null;
    return change ? `; last full ${minutes} ${change}` : "";
  };
}

/** A percentile over several groups cannot be computed from theirs: the worst one is shown, and named. */
function worst(groups, timing, percentile) {
  const of = (group) => group.timings[timing];
  const enough = groups.filter((group) => of(group)?.count >= FEW);
  const from = enough.length > 0 ? enough : groups.filter((group) => of(group));
  return from.reduce((most, group) => (most && of(most)[percentile] >= of(group)[percentile] ? most : group), null);
}

function figure(name, value, note, isBad) {
  return h("div", { class: "card" }, h("span", {}, name), h("strong", {}, value), h("em", { class: isBad ? "bad" : null }, note));
}

function figures(groups, objectives, covered, change, ledgers, backends) {
  const sum = (of) => groups.reduce((total, group) => total + (of(group) ?? 0), 0);
  const requests = sum((group) => group.requests);
  const failures = sum((group) => group.service_failures);
  const judged = sum((group) => group.goodput?.judged);
  const good = sum((group) => group.goodput?.good);
  const codes = {};
  for (const group of groups) for (const [code, count] of Object.entries(group.errors)) codes[code] = (codes[code] ?? 0) + count;
  const first = Object.entries(codes).sort((a, b) => b[1] - a[1])[0];
  const slow = (measured, estimated) => {
    const timing = estimated && !worst(groups, measured, "p95_us") ? estimated : measured;
    const group = worst(groups, timing, "p95_us");
    if (!group) return ["–", "no request with this time yet"];
    const { p95_us, count } = group.timings[timing];
    const all = change((point) => point[`${timing}_us`]?.p95);
    const shown = timing === measured ? duration(p95_us) : h("span", { class: "estimate" }, duration(p95_us));
    return [shown, `${timing === measured ? "" : "from estimated tokens; "}${group.route}${group.backend ? ` / ${group.backend}` : ""}, ${samples(count)}${all && `; p95 of all${all.slice(1)}`}`];
  };
  const left = objectives.filter((one) => one.events > 0).sort((a, b) => a.budget_remaining - b.budget_remaining)[0];
  const failed = (point) => (point.requests - (point.outcomes.ok ?? 0)) / point.requests;
  const [ttft, tpot] = [slow("client_ttft"), slow("tpot", "estimated_tpot")];
  return h("section", { class: "figures", "aria-label": "Figures" },
    figure("Requests", `${number(requests / Math.max(covered, 1))} /s`, `${number(requests)} in ${duration(covered * 1e6)}${change((point) => point.requests)}`),
    figure("Goodput", judged ? percent(good / judged) : "–", judged ? `${number(judged)} requests judged by objectives` : "no objectives; set objectives in the settings", judged && good / judged < 0.95),
    figure(definition("client_ttft", "TTFT p95, slowest"), ...ttft),
    figure(definition("tpot", "TPOT p95, slowest"), ...tpot),
    figure("Failures of the service", requests ? percent(failures / requests, 2) : "–", first ? `most: ${first[0]} (${number(first[1])})${change(failed) && `; requests that are not ok${change(failed).slice(1)}`}` : "no errors", failures > 0),
    figure(definition("added_ttft", "TTFT added by guardrails"), ...addedTtft(ledgers)),
    figure("In flight", number(backends.reduce((total, one) => total + one.requests, 0)), waiting(backends)),
    figure(definition("client_itl", "Gap p99, slowest"), ...slowestGap(ledgers)),
    figure("Error budget left", left ? percent(Math.max(left.budget_remaining, 0), 0) : "–", left ? `${left.route}, ${left.slo}${left.budget_remaining < 0 ? `; ${number(1 - left.budget_remaining)} times the budget is used` : ""}; burn rate ${number(left.burn_rate)}` : "no objective has events yet", left && left.budget_remaining < 0.25));
}

/** The time per token from estimated tokens. */
const estimated = (group) => h("span", { class: "estimate" }, duration(group?.timings.estimated_tpot?.p50_us));

/** Requests in queues: of the gateway, and of engines whose metrics it reads. */
function waiting(backends) {
  const inQueue = backends.reduce((total, one) => total + (one.queued ?? 0), 0);
  const reports = backends.filter((one) => typeof one.engine?.waiting === "number");
  const atEngines = reports.reduce((total, one) => total + one.engine.waiting, 0);
  return `${number(inQueue)} wait in the gateway${reports.length > 0 ? `, ${number(atEngines)} at engines` : ""}`;
}

/** The largest p99 of gaps between tokens at the client, since the start. */
function slowestGap(ledgers) {
  const streams = ledgers.filter((row) => row.timings.client_itl?.count >= FEW);
  const most = streams.sort((a, b) => b.timings.client_itl.p99_us - a.timings.client_itl.p99_us)[0];
  if (!most) return ["–", "no streams yet"];
  const { p99_us, count } = most.timings.client_itl;
  return [duration(p99_us), `${most.route} / ${most.backend} since the start, ${number(count)} gaps`];
}

/** Errors of the window by their code, with the routes that have them. */
function errorsByKind(groups) {
  const codes = new Map();
  for (const group of groups) {
    for (const [code, count] of Object.entries(group.errors)) {
      const known = codes.get(code) ?? { count: 0, at: new Set() };
      known.at.add(group.backend ? `${group.route} / ${group.backend}` : group.route);
      codes.set(code, { count: known.count + count, at: known.at });
    }
  }
  const rows = [...codes].sort((a, b) => b[1].count - a[1].count).map(([code, { count, at }]) =>
    [h("a", { href: `#/requests?${new URLSearchParams({ error_code: code })}` }, code), number(count), [...at].join(", ")]);
  if (rows.length === 0) return null;
  return h("section", { class: "card" }, table("Errors by kind", [{ head: "Error", text: true }, { head: "Requests" }, { head: "Route / backend", text: true }], rows));
}

/** The largest p95 that guardrails add, since the start. */
function addedTtft(ledgers) {
  const guarded = ledgers.filter((row) => row.timings.added_ttft?.count > 0);
  const most = guarded.sort((a, b) => b.timings.added_ttft.p95_us - a.timings.added_ttft.p95_us)[0];
  if (!most) return ["–", "no request has passed a guardrail"];
  const { p95_us, count } = most.timings.added_ttft;
  return [duration(p95_us), `p95 of ${most.route} / ${most.backend} since the start, ${samples(count)}`];
}

function charts(points, { data, problem }) {
  if (problem) return h("div", { class: "card" }, h("h2", {}, "The last hour"), empty(`Stored records cannot be read: ${problem}.`));
  if (!data) {
    return h("div", { class: "card" }, h("h2", {}, "The last hour"),
      empty("Charts need stored records. Set ", h("code", {}, "record_store: {path: FOLDER}"), " in the settings and restart the gateway."));
  }
  if (points.length === 0) {
    return h("div", { class: "card" }, h("h2", {}, "The last hour"), empty("No requests in the last hour. Send one to the gateway, and it appears within a few seconds."));
  }
  const times = points.map((point) => point.at_s);
  const line = (timing, percentile, color, dash) => ({
    label: percentile, color, dash, values: points.map((point) => point[timing]?.[percentile] ?? null),
  });
  const percentiles = (timing) => [line(timing, "p50", "--p50"), line(timing, "p95", "--p95", [6, 3]), line(timing, "p99", "--p99", [2, 3])];
  const sum = (of) => points.map((point) => of(point.outcomes) / 60);
  const rates = [
    { label: "ok", color: "--p50", values: sum((outcomes) => outcomes.ok ?? 0) },
    { label: "other outcomes", color: "--p99", dash: [2, 3], values: sum((outcomes) => Object.entries(outcomes).reduce((total, [name, count]) => total + (name === "ok" ? 0 : count), 0)) },
  ];
  const card = (title, id, lines, show, what = "requests", missing = []) => {
    const counts = id ? points.map((point) => point[`${id}_us`]?.count ?? 0) : null;
    const total = counts ? `, ${number(counts.reduce((sum, count) => sum + count, 0))} ${what}` : "";
    return h("div", { class: "card" },
      h("h2", {}, id ? definition(id, title) : title, h("small", {}, ` last hour, per minute${total}`)),
      lines.some((line) => line.values.some((value) => value !== null)) ? chart(title, times, lines, show, counts && { head: what, counts }) : empty("No request of the last hour has this time.", ...missing));
  };
  const tokens = [" Times per token need token counts of the engine: ", h("code", {}, "include_usage: inject"), "."];
  return [
    card("Time to first token at the client", "client_ttft", percentiles("client_ttft_us"), duration),
    card("Time per output token", "tpot", percentiles("tpot_us"), duration, "requests", tokens),
    card("Gap between tokens at the client", "client_itl", percentiles("client_itl_us"), duration, "gaps"),
    card("Duration", "total", percentiles("total_us"), duration),
    card("Requests a second", null, rates, number),
  ];
}

function whereTheTimeGoes(groups, ledgers) {
  if (ledgers.length === 0) return empty("No request yet. Send one to the gateway: clients only change their base URL.");
  const find = (row) => groups.find((group) => group.route === row.route && group.backend === row.backend);
  const rows = ledgers.map((row) => {
    const group = find(row);
    const [ttft, tpot] = [group?.timings.client_ttft, group?.timings.tpot];
    const to = `#/latency?${new URLSearchParams({ route: row.route, backend: row.backend })}`;
    return [
      h("a", { href: to }, row.backend ? `${row.route} / ${row.backend}` : row.route),
      number(group?.requests ?? 0),
      group?.requests ? percent(group.service_failures / group.requests) : "–",
      duration(ttft?.p50_us), duration(ttft?.p95_us), tpot ? duration(tpot.p50_us) : estimated(group),
      shareBar(row.ledger_share),
    ];
  });
  const caption = h("span", {}, "Where the time goes ", h("small", {}, "figures of the window; shares since the start, which close to 100 %"));
  return [
    table(caption, [
      { head: "Route / backend", text: true }, { head: "Requests" }, { head: "Failures" },
      { head: "TTFT p50", href: "#/definitions?of=client_ttft" }, { head: "TTFT p95", href: "#/definitions?of=client_ttft" },
      { head: "TPOT p50", href: "#/definitions?of=tpot" }, { head: "Share of the time", wide: true, text: true, href: "#/definitions?of=ledger" },
    ], rows),
    stateLegend(ledgers.map((row) => row.ledger_share)),
  ];
}
