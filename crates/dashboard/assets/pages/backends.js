// Backends: their state and why, their load and latency, and where a request would go now.

import { change, get, Refused } from "../lib/api.js";
import { empty, h, list, table } from "../lib/dom.js";
import { duration, number, percent } from "../lib/format.js";

const ms = (value) => (value === null || value === undefined ? "–" : duration(value * 1000));
const seconds = (value) => (value === null || value === undefined ? "–" : duration(value * 1e6));

export async function make({ params, refresh }) {
  const [{ backends }, { settings }] = await Promise.all([get("/api/backends"), get("/api/settings")]);
  const names = (settings.routes ?? []).map((route) => route.name);
  const content = [h("h1", {}, "Backends"), h("section", { class: "card" }, backends.length > 0 ? rows(backends) : empty("No backends are configured."))];
  if (names.length > 0) content.push(await explain(names, params, refresh));
  return { title: "Backends", refreshes: true, content };
}

function rows(backends) {
  return table("State, load and latency", [
    { head: "Backend", text: true }, { head: "Pool", text: true }, { head: "State", text: true }, { head: "In flight" }, { head: "Queued" }, { head: "Tokens in flight" }, { head: "Attempts" }, { head: "Failures" },
    { head: "TTFT", href: "#/definitions?of=engine_ttft" }, { head: "TTFT p95", href: "#/definitions?of=engine_ttft" }, { head: "Round trip" }, { head: "TTFT predicted, off by" }, { head: "Ejections" },
  ], backends.map((one) => [
    one.backend, [one.pool, one.tier, one.zone].filter(Boolean).join(", "),
    h("span", { class: one.state === "healthy" ? "good" : "bad" }, `${one.state.replaceAll("_", " ")}${one.cause ? `: ${one.cause}` : ""}${one.left_ms ? `, for ${ms(one.left_ms)}` : ""}`),
    number(one.requests), number(one.queued), number(one.tokens), number(one.attempts), h("span", { class: one.failures > 0 ? "bad" : null }, number(one.failures)),
    ms(one.ttft_ms), ms(one.ttft_p95_ms), ms(one.round_trip_ms), percent(one.prediction_error?.ttft, 0), number(one.ejections),
  ]));
}

async function explain(names, params, refresh) {
  const route = names.includes(params.get("route")) ? params.get("route") : names[0];
  const query = { route, prompt_tokens: params.get("prompt_tokens") || "500", output_tokens: params.get("output_tokens") || "200" };
  const submit = (event) => {
    event.preventDefault();
    location.hash = `#/backends?${new URLSearchParams(new FormData(event.currentTarget))}`;
  };
  const input = (name, label) => h("label", {}, label, h("input", { name, value: query[name], inputmode: "numeric", size: 7 }));
  const form = h("form", { class: "filters", onsubmit: submit },
    h("label", {}, "Route", h("select", { name: "route" }, names.map((name) => h("option", { value: name, selected: name === route }, name)))),
    input("prompt_tokens", "Prompt tokens"), input("output_tokens", "Output tokens"), h("button", {}, "Explain"));
  const card = (...shown) => h("section", { class: "card" }, h("h2", {}, "Where would a request go now?"), form, ...shown);
  try {
    const answer = await get("/api/routes/explain", query);
    const rows = answer.pools.flatMap((pool) => pool.backends.map((one) => [
      one.backend, pool.pool, one.state.replaceAll("_", " "), seconds(one.predicted?.ttft), seconds(one.predicted?.tpot), seconds(one.completion), number(one.requests),
    ]));
    return card(list([["Goes to", answer.goes_to], ["Offload", answer.offload], ["Balancing", answer.pools.map((pool) => `${pool.pool}: ${pool.balance}`).join(", ")]]),
      answer.canary ? canary(route, answer.canary, refresh) : null,
      table("Predictions for this request", [{ head: "Backend", text: true }, { head: "Pool", text: true }, { head: "State", text: true }, { head: "TTFT" }, { head: "TPOT" }, { head: "Completion" }, { head: "In flight" }], rows));
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    return card(h("p", { class: "notice bad" }, error.message));
  }
}

/** The canary of a route, and its share, which is set after a second click. */
function canary(route, now, refresh) {
  const state = list([
    ["Canary", `pool ${now.pool}, ${percent(now.share)} of the requests${now.rolled_back ? "; rolled back" : ""}`],
    ["Compared with", now.compared_with], ["Without requests", now.without_requests],
  ]);
  const input = h("input", { name: "share", value: String(Math.round(now.share * 1000) / 10), inputmode: "decimal", size: 5 });
  const told = h("span", { role: "status" });
  const set = async (share) => {
    try {
      await change("/api/routes/release", { route, share: String(share) });
      await refresh();
    } catch (error) {
      told.className = "bad";
      told.replaceChildren(error instanceof Refused ? error.message : "the gateway does not answer; nothing was changed");
    }
  };
  const confirm = (event) => {
    event.preventDefault();
    const share = Number(input.value.replace(",", ".")) / 100;
    if (input.value.trim() === "" || !(share >= 0 && share <= 1)) {
      told.className = "bad";
      told.replaceChildren("The share must be from 0 to 100.");
      return;
    }
    told.className = "";
    const yes = h("button", { type: "button", onclick: () => set(share) }, "Confirm");
    told.replaceChildren(`Send ${percent(share)} of the requests of ${route} to ${now.pool}? `, yes, " ", h("button", { type: "button", onclick: () => told.replaceChildren() }, "Cancel"));
    yes.focus();
  };
  return h("div", {}, state, h("form", { class: "filters", onsubmit: confirm }, h("label", {}, "Share of the canary, %", input), h("button", {}, "Set share")), told);
}
