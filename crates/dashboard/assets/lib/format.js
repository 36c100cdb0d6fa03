// Values as text.

const whole = new Intl.NumberFormat(undefined, { maximumFractionDigits: 0 });
const small = new Intl.NumberFormat(undefined, { maximumSignificantDigits: 3 });
const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const full = new Intl.DateTimeFormat(undefined, { dateStyle: "short", timeStyle: "medium" });

/** Fewer samples than this are marked: their high percentiles are single requests. */
export const FEW = 20;

export const number = (value) => (value === null || value === undefined ? "–" : value >= 100 ? whole.format(value) : small.format(value));

/** Microseconds, in the unit that a person would use. */
export function duration(us) {
  if (us === null || us === undefined) return "–";
  if (us < 1000) return `${whole.format(us)} µs`;
  if (us < 10_000) return `${(us / 1e3).toFixed(2)} ms`;
  if (us < 100_000) return `${(us / 1e3).toFixed(1)} ms`;
  if (us < 1e6) return `${whole.format(us / 1e3)} ms`;
  if (us < 100e6) return `${(us / 1e6).toFixed(2)} s`;
  return `${whole.format(us / 1e6)} s`;
}

export const percent = (share, digits = 1) => (share === null || share === undefined ? "–" : `${(100 * share).toFixed(digits)} %`);
export const time = (date) => clock.format(date);
export const dateTime = (date) => full.format(date);

/** "x 1.8" or "same": a value beside another one. */
export function ratio(now, before) {
  if (!now || !before) return null;
  const factor = now / before;
  if (factor > 0.95 && factor < 1.05) return "as before";
  return factor >= 2 || factor <= 0.5 ? `${small.format(factor)} × of before` : `${factor > 1 ? "+" : "−"}${whole.format(Math.abs(factor - 1) * 100)} % to before`;
}

/** The sample count of a percentile, with a warning where it is small. */
export const samples = (count) => (count < FEW ? `n = ${count}, too few to judge` : `n = ${number(count)}`);
