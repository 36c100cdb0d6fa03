// Shares of the ledger: a bar, its legend, and the same in words.

import { h } from "./dom.js";
import { percent } from "./format.js";
import { stateColor, stateName, STATES } from "./states.js";

/** States with a share of at least a thousandth, in their order. */
const shown = (shares) => STATES.map(([id]) => [id, shares[id] ?? 0]).filter(([, share]) => share >= 0.001);

export function shareBar(shares) {
  const parts = shown(shares);
  const words = parts.map(([id, share]) => `${stateName[id]} ${percent(share)}`).join(", ");
  return h("span", { class: "bar", role: "img", "aria-label": words || "no time yet", title: words },
    parts.map(([id, share]) => h("i", { style: { width: `${100 * share}%`, background: stateColor(id) } })));
}

export function stateLegend(all) {
  const used = STATES.filter(([id]) => all.some((shares) => (shares[id] ?? 0) >= 0.001));
  return h("div", { class: "legend" }, used.map(([id, name]) => h("span", {}, h("i", { style: { background: stateColor(id) } }), name)));
}
