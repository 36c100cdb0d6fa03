// A heat map: time from left to right, duration from bottom to top, requests as shade. Each cell is a link.

import { h, table } from "./dom.js";
import { duration, number, time } from "./format.js";

/** Two cells for each octave, as the gateway counts them. */
const HALF_OCTAVE = Math.SQRT2;

/**
 * A heat map of `points`, each with `at_s` and `cells`: `[upper bound in us, requests]`. `step` and `range`, the time that is
 * shown, are in seconds; `link(from, to, over)` is the address of the requests of a cell.
 */
export function heatMap(title, points, step, range, link) {
  const uppers = [...new Set(points.flatMap((point) => point.cells.map(([upper]) => upper)))].sort((a, b) => a - b);
  if (uppers.length === 0) return [];
  // The whole range, so that it can be seen since when there are requests.
  const last = Math.max(points.at(-1).at_s, Math.floor(Date.now() / 1000 / step) * step);
  const first = Math.min(points[0].at_s, last - range + step);
  const columns = (last - first) / step + 1;
  // Empty rows between others keep the axis logarithmic.
  const row = (upper) => Math.round(Math.log(uppers.at(-1) / upper) / Math.log(HALF_OCTAVE)) + 1;
  const rows = row(uppers[0]);
  const most = Math.max(...points.flatMap((point) => point.cells.map(([, count]) => count)));
  const cells = points.flatMap((point) => point.cells.map(([upper, count]) => {
    const lower = Math.floor(upper / HALF_OCTAVE);
    const label = `${time(new Date(point.at_s * 1000))}, ${duration(lower)} to ${duration(upper)}: ${number(count)} requests`;
    return h("a", {
      href: link(point.at_s, point.at_s + step, lower), title: label, "aria-label": label, tabindex: -1,
      style: { gridColumn: String((point.at_s - first) / step + 2), gridRow: String(row(upper)), opacity: String(0.15 + 0.85 * Math.sqrt(count / most)) },
    });
  }));
  const marks = [];
  for (let at = 1; at <= rows; at += rows > 8 ? 4 : 2) {
    marks.push(h("span", { style: { gridColumn: "1", gridRow: String(at) } }, duration(uppers.at(-1) / HALF_OCTAVE ** (at - 1))));
  }
  const grid = h("div", { class: "heat", role: "group", "aria-label": title, style: { gridTemplateColumns: `62px repeat(${columns}, minmax(2px, 1fr))`, gridTemplateRows: `repeat(${rows}, 11px)` } }, marks, cells);
  const ends = h("p", { class: "heat-ends" }, h("span", {}, time(new Date(first * 1000))), h("span", {}, time(new Date((last + step) * 1000))));
  return [grid, ends, values(title, points, step, link)];
}

/** The same counts as a table, for those who cannot see or point at cells. */
function values(title, points, step, link) {
  const details = h("details", {}, h("summary", {}, "Values"));
  details.addEventListener("toggle", () => {
    if (!details.open || details.children.length > 1) return;
    const rows = points.flatMap((point) => point.cells.map(([upper, count]) => {
      const lower = Math.floor(upper / HALF_OCTAVE);
      return [h("a", { href: link(point.at_s, point.at_s + step, lower) }, time(new Date(point.at_s * 1000))), duration(lower), duration(upper), number(count)];
    }));
    details.append(table(title, [{ head: "Time" }, { head: "From" }, { head: "To" }, { head: "Requests" }], rows.reverse()));
  });
  return details;
}
