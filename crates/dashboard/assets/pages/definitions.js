// What each figure is.

import { h, table } from "../lib/dom.js";
import { DEFINITIONS } from "../lib/definitions.js";
import { OWNERS, stateColor, STATES } from "../lib/states.js";

export async function make({ params }) {
  const of = params.get("of");
  const rows = Object.entries(DEFINITIONS).map(([id, { name, text }]) => [id === of ? h("mark", {}, name) : name, h("span", { class: "prose" }, text)]);
  const states = STATES.map(([, name, owner], at) => [
    h("span", {}, h("i", { class: "swatch", style: { background: stateColor(STATES[at][0]) } }), name), OWNERS[owner],
  ]);
  return {
    title: "Definitions",
    refreshes: false,
    content: [
      h("h1", {}, "Definitions"),
      h("section", { class: "card" }, table("Figures", [{ head: "Figure", text: true }, { head: "Definition", text: true }], rows)),
      h("section", { class: "card" }, table("States of the ledger", [{ head: "State", text: true }, { head: "Whose time", text: true }], states)),
      h("p", { class: "notice" }, "Percentiles come from histograms and err by 1.1 % at most. docs/measurement.md has the exact definitions and their sources."),
    ],
  };
}
