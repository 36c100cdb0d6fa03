// Usage and cost by owner, key and model; accounts near a limit.

import { get } from "../lib/api.js";
import { empty, h, table } from "../lib/dom.js";
import { duration, number, percent } from "../lib/format.js";

const GROUPS = [["owner", "owner"], ["owner,model", "owner and model"], ["key", "key"], ["model", "model"]];

export async function make({ params }) {
  const by = GROUPS.some(([id]) => id === params.get("by")) ? params.get("by") : "owner";
  const per = params.get("per") === "month" ? "month" : "day";
  const [{ currency, usage }, limits] = await Promise.all([get("/api/usage", { by, per }), get("/api/limits")]);
  const go = (event) => {
    location.hash = `#/usage?${new URLSearchParams(new FormData(event.currentTarget))}`;
  };
  const options = (all, chosen) => all.map(([id, title]) => h("option", { value: id, selected: id === chosen }, title));
  const form = h("form", { class: "filters", onchange: go, onsubmit: (event) => event.preventDefault() },
    h("label", {}, "By", h("select", { name: "by" }, options(GROUPS, by))),
    h("label", {}, "Per", h("select", { name: "per" }, options([["day", "day"], ["month", "month"]], per))));
  const names = by.split(",");
  const rows = usage.map((row) => [
    row.time, ...names.map((name) => row[name] || "(none)"), number(row.requests), number(row.input_tokens), number(row.cached_tokens), number(row.output_tokens), number(row.reasoning_tokens),
    row.cost.toLocaleString(undefined, { style: "currency", currency, maximumFractionDigits: 4 }),
  ]);
  return {
    title: "Usage and cost",
    refreshes: true,
    content: [
      h("h1", {}, "Usage and cost"), h("section", { class: "card" }, nearLimits(limits)), form,
      h("section", { class: "card" }, rows.length > 0
        ? table("Usage", [{ head: per === "day" ? "Day" : "Month", text: true }, ...names.map((name) => ({ head: name[0].toUpperCase() + name.slice(1), text: true })), { head: "Requests" }, { head: "Tokens in" }, { head: "of them cached" }, { head: "Tokens out" }, { head: "of them reasoning" }, { head: "Cost" }], rows)
        : empty("No usage yet. Prices come from ", h("code", {}, "prices"), " in the settings.")),
    ],
  };
}

/** What is used of rate limits, and how often they have refused. */
function nearLimits({ limits, nearest }) {
  if (limits.length === 0) return [h("h2", {}, "Rate limits"), empty("No rate limit is set. Define one under ", h("code", {}, "rate_limits:"), ".")];
  const words = (text) => text.replaceAll("_", " ");
  const rows = nearest.map((one) => [
    one.limit, one.subject || (one.per === "address" ? "an address" : one.per === "all" ? "all requests" : `no ${one.per}`), words(one.unit),
    h("span", { class: one.used_share >= 0.8 ? "bad" : null }, percent(one.used_share)), one.unit === "streams" ? "–" : duration(one.reset_s * 1e6),
  ]);
  return [
    rows.length > 0 ? table("Nearest to a limit", [{ head: "Limit", text: true }, { head: "Account", text: true }, { head: "Counts", text: true }, { head: "Used" }, { head: "Nothing used in" }], rows)
      : [h("h2", {}, "Nearest to a limit"), empty("Nothing of a limit is used at the moment.")],
    table("Rate limits, since the start", [{ head: "Limit", text: true }, { head: "Counts", text: true }, { head: "Per", text: true }, { head: "Accounts" }, { head: "Refused" }, { head: "Streams ended" }, { head: "Warnings" }],
      limits.map((one) => [one.limit, words(one.unit), one.shared ? `${one.per}, shared by gateways` : one.per, number(one.accounts), number(one.refused), number(one.ended), number(one.warned)])),
  ];
}
