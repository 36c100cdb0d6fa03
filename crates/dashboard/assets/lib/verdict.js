// The first sentence of the overview: what is wrong, since when, whose fault, with a link to the evidence.

import { h } from "./dom.js";
import { duration, FEW, number, percent } from "./format.js";
import { OWNERS, stateName, stateOwner } from "./states.js";

/** A backend is slower than another one if its median TTFT is more than this multiple. */
const SLOWER = 2;

export function verdict(data) {
  const problems = [...missedObjectives(data), ...sickBackends(data), ...slowBackends(data), ...lostRecords(data)];
  if (problems.length > 0) return problems.slice(0, 4).map((problem) => h("p", {}, problem));
  return h("p", {}, allIsWell(data));
}

const strong = (text) => h("b", {}, text);
const requestsOf = (params, text) => h("a", { href: `#/requests?${new URLSearchParams(params)}` }, text);

/** Objectives whose budget burns faster than it may, in the last five minutes. */
function missedObjectives({ objectives, ledgers }) {
  const recent = (one) => one.burn_rates.find((rate) => rate.window === "5m");
  return objectives.filter((one) => (recent(one)?.burn_rate ?? 0) > 1 && recent(one).misses > 0).map((one) => {
    const { burn_rate, events, misses } = recent(one);
    const what = one.slo === "availability"
      ? [strong(one.route), ` fails: ${number(misses)} of ${number(events)} requests in 5 minutes`]
      : [`${one.slo.toUpperCase()} of `, strong(one.route), ` misses its objective: ${number(misses)} of ${number(events)} requests over ${duration(one.max_s * 1e6)} in 5 minutes`];
    return [...what, `. The budget burns ${number(burn_rate)} times as fast as it may. `, cause(one, ledgers),
      requestsOf({ route: one.route, ...(one.slo === "ttft" ? { ttft_over: `${one.max_s}s` } : {}) }, "See its requests"), "."];
  });
}

/** The states that an objective of times is about: those before the first token, and those between tokens. */
const ABOUT = {
  ttft: ["read_request", "authenticate", "queue", "guardrail_input", "route", "connect", "send", "await_first_byte", "await_first_token"],
  tpot: ["await_token", "guardrail_output", "hold", "client_write", "gateway"],
};

const matters = (slo, state) => ABOUT[slo]?.includes(state) ?? true;

/** The state with most of the time of a route that an objective is about. */
function cause(objective, ledgers) {
  const own = ledgers.filter((row) => row.route === objective.route);
  const sums = {};
  for (const row of own) {
    const mean = row.timings.total?.mean_us ?? 0;
    for (const [id, share] of Object.entries(row.ledger_share)) {
      if (matters(objective.slo, id)) sums[id] = (sums[id] ?? 0) + share * mean * row.requests;
    }
  }
  const total = Object.values(sums).reduce((a, b) => a + b, 0);
  const [id, most] = Object.entries(sums).sort((a, b) => b[1] - a[1])[0] ?? [];
  if (!id || !total) return "";
  const span = objective.slo === "ttft" ? "before the first token" : objective.slo === "tpot" ? "between tokens" : "of its requests";
  return `Most of the time ${span}, ${percent(most / total, 0)}, is “${stateName[id]}”: ${OWNERS[stateOwner[id]]}. `;
}

function sickBackends({ backends }) {
  return backends.filter((one) => one.state !== "healthy").map((one) => [
    "Backend ", strong(one.backend), ` is ${one.state.replaceAll("_", " ")}${one.cause ? `: ${one.cause}` : ""}. `, h("a", { href: "#/backends" }, "See the backends"), ".",
  ]);
}

/** A backend that is much slower than another one of the same route. */
function slowBackends({ perBackend }) {
  const enough = perBackend.filter((group) => group.backend && (group.timings.engine_ttft?.count ?? 0) >= FEW);
  const found = [];
  for (const group of enough) {
    const others = enough.filter((other) => other.route === group.route && other.backend !== group.backend);
    const fastest = others.sort((a, b) => a.timings.engine_ttft.p50_us - b.timings.engine_ttft.p50_us)[0];
    const own = group.timings.engine_ttft.p50_us;
    if (!fastest || own < SLOWER * fastest.timings.engine_ttft.p50_us) continue;
    found.push(["Backend ", strong(group.backend), ` needs ${duration(own)} to the first token of ${group.route} (median), ${fastest.backend} ${duration(fastest.timings.engine_ttft.p50_us)}. `,
      requestsOf({ route: group.route, backend: group.backend }, "See its requests"), "."]);
  }
  return found;
}

function lostRecords({ sinks }) {
  return sinks.filter((sink) => sink.last_error || sink.dropped > 0).map((sink) => [
    "Records for ", strong(sink.sink), sink.dropped > 0 ? ` were lost: ${number(sink.dropped)}` : " wait", `${sink.last_error ? `: ${sink.last_error}` : ""}.`,
  ]);
}

function allIsWell({ groups, backends }) {
  const requests = groups.reduce((total, group) => total + group.requests, 0);
  if (requests === 0) return "No requests in this window.";
  const failed = groups.reduce((total, group) => total + group.service_failures, 0);
  return [h("span", { class: "good" }, "Nothing is wrong. "),
    `${number(requests)} requests, ${failed === 0 ? "none" : number(failed)} failed by the service; ${backends.length === 1 ? "the backend is" : `all ${backends.length} backends are`} healthy.`];
}
