// Line charts over time, with uPlot, and a table of the same values for those who cannot see them.

import { h, table } from "./dom.js";
import { dateTime, number } from "./format.js";

const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/**
 * A chart. `times` are Unix seconds; `lines` are `{label, values, color, dash}`, where a missing value is null;
 * `show` formats a value. The table of values has `samples`, too: `{head, counts}`.
 */
export function chart(title, times, lines, show, samples = null) {
  const box = h("div", { class: "chart", role: "img", "aria-label": title });
  const values = h("details", {}, h("summary", {}, "Values"));
  values.addEventListener("toggle", () => {
    if (!values.open || values.children.length > 1) return;
    const rows = times.map((at, index) => [dateTime(at * 1000), ...lines.map((line) => show(line.values[index])), ...(samples ? [number(samples.counts[index])] : [])]);
    const heads = ["Time", ...lines.map((line) => line.label), ...(samples ? [samples.head] : [])];
    values.append(table(title, heads.map((head) => ({ head })), rows.reverse()));
  }, { once: false });
  const draw = () => {
    const width = box.clientWidth;
    if (!width) return;
    box.replaceChildren();
    const axis = { stroke: color("--dim"), grid: { stroke: color("--line"), width: 1 }, ticks: { show: false }, font: "11px system-ui" };
    new window.uPlot({
      width,
      height: 180,
      cursor: { y: false },
      axes: [{ ...axis }, { ...axis, size: 62, values: (_, marks) => marks.map(show) }],
      // One point alone would get an axis of years.
      scales: { x: { range: (_, first, last) => (times.length === 1 ? [times[0] - 600, times[0]] : [first, last]) }, y: { range: (_, low, high) => [0, (high || 1) * 1.1] } },
      series: [{ label: "Time" }, ...lines.map((line) => ({
        label: line.label, stroke: color(line.color), width: 1.6, dash: line.dash, points: { show: times.length < 3 }, value: (_, value) => show(value),
      }))],
    }, [times, ...lines.map((line) => line.values)], box);
  };
  // The box has no width until it is on the page.
  new ResizeObserver(draw).observe(box);
  return [box, values];
}
