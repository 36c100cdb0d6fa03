// Usage and cost: who used what.

import { get } from "../lib/api.js";
import { empty, h, table } from "../lib/dom.js";
import { number } from "../lib/format.js";

const GROUPS = [["owner", "owner"], ["owner,model", "owner and model"], ["key", "key"], ["model", "model"]];

export async function make({ params }) {
  const by = GROUPS.some(([id]) => id === params.get("by")) ? params.get("by") : "owner";
  const per = params.get("per") === "month" ? "month" : "day";
  const { currency, usage } = await get("/api/usage", { by, per });
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
      h("h1", {}, "Usage and cost"), form,
      h("section", { class: "card" }, rows.length > 0
        ? table("Usage", [{ head: per === "day" ? "Day" : "Month", text: true }, ...names.map((name) => ({ head: name[0].toUpperCase() + name.slice(1), text: true })), { head: "Requests" }, { head: "Tokens in" }, { head: "of them cached" }, { head: "Tokens out" }, { head: "of them reasoning" }, { head: "Cost" }], rows)
        : empty("No usage yet. Prices come from ", h("code", {}, "prices"), " in the settings.")),
    ],
  };
}
