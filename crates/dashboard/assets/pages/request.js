// One request: where its time went, its marks, its tokens, and what was decided.

import { get, stored } from "../lib/api.js";
import { empty, h, list, table } from "../lib/dom.js";
import { dateTime, duration, number, percent } from "../lib/format.js";
import { contents } from "./contents.js";
import { stateColor, stateName, STATES } from "../lib/states.js";

export async function make({ argument }) {
  const { record, times } = await find(argument);
  if (!record) {
    return { title: "Request", refreshes: false, content: [h("h1", {}, "Request"), empty(`No request ${argument} is stored, and it is not among the recent ones. `, h("a", { href: "#/requests" }, "See the requests"), ".")] };
  }
  const subtitle = [record.route, record.backend, record.model_requested, dateTime(new Date(record.started_at)), record.http_status, record.outcome].filter(Boolean).join(", ");
  return {
    title: `Request ${record.id}`,
    refreshes: false,
    content: [
      h("h1", {}, `Request ${record.id} `, h("small", {}, subtitle)),
      h("section", { class: "card" }, waterfall(record), marks(record), events(record, times)),
      h("section", { class: "two" },
        h("div", { class: "card" }, h("h2", {}, "Figures"), figures(record)),
        h("div", { class: "card" }, h("h2", {}, "Decisions"), decisions(record))),
      record.guardrail ? h("section", { class: "card" }, filters(record.guardrail)) : null,
      record.guardrail ? h("section", { class: "card" }, contents(record)) : null,
      record.dialect ? h("section", { class: "card" }, h("h2", {}, "The same request again ", h("small", {}, "without its key and its texts, which the record does not have")), h("pre", { tabindex: 0 }, curl(record))) : null,
      h("section", { class: "card" }, h("details", {}, h("summary", {}, "The record as JSON"), h("pre", { tabindex: 0 }, JSON.stringify(record, null, 2)))),
    ].filter(Boolean),
  };
}

/** A command that sends such a request: the key and the prompt are the reader's to fill in. */
function curl(record) {
  const quote = (text) => `'${text.replaceAll("'", "'\\''")}'`;
  const body = { model: record.model_requested ?? record.model ?? "MODEL" };
  if (record.stream) body.stream = true;
  if (/(chat\/completions|messages|api\/chat)$/.test(record.endpoint)) body.messages = [{ role: "user", content: "YOUR PROMPT" }];
  else if (/(responses|embeddings)$/.test(record.endpoint)) body.input = "YOUR PROMPT";
  else body[/generate(_stream)?$/.test(record.endpoint) && record.dialect !== "ollama" ? "inputs" : "prompt"] = "YOUR PROMPT";
  const lines = ["curl -N \"$GATEWAY\"" + quote(record.endpoint), "-H 'content-type: application/json'", "-H \"authorization: Bearer $KEY\"", `-d ${quote(JSON.stringify(body))}`];
  return lines.join(" \\\n  ");
}

/** The record, and the times of its events while it is among the recent ones. */
async function find(id) {
  const [{ data }, recent] = await Promise.all([stored("/api/records", { id }), get("/api/requests", { id, limit: 1 })]);
  const latest = recent.requests[0];
  const record = data?.records[0] ?? latest ?? null;
  return { record, times: record && record.started_at === latest?.started_at ? recent.event_times[0] : null };
}

/** Where the time of a request went: the states of its ledger. */
export function waterfall(record) {
  const total = record.total_us;
  let before = 0;
  const rows = STATES.filter(([id]) => record.ledger_us[id] > 0).map(([id]) => {
    const us = record.ledger_us[id];
    const left = before;
    before += us;
    return [
      h("a", { href: "#/definitions?of=ledger" }, stateName[id]),
      h("span", { class: "track", "aria-hidden": "true" }, h("i", { style: { left: `${(100 * left) / total}%`, width: `${(100 * us) / total}%`, background: stateColor(id) } })),
      h("span", { class: "number" }, duration(us)),
      h("span", { class: "number share" }, percent(us / total)),
    ];
  });
  return [
    h("h2", {}, "Where the time went ", h("small", {}, "states in their usual order; each moment belongs to one")),
    h("div", { class: "waterfall" }, rows, h("span", { class: "sum" }, "total"), h("span", { class: "sum" }, " "), h("span", { class: "number sum" }, duration(total)), h("span", { class: "number sum share" }, percent(before / total))),
  ];
}

/** Marks on the time line of the request. Names that would overlap are on lines of their own. */
export function marks(record) {
  const total = record.total_us;
  const at = [];
  for (const [name, { arrival, written }] of Object.entries(record.marks_us ?? {})) {
    if (arrival !== undefined) at.push([arrival, `${name.replaceAll("_", " ")} read`]);
    if (written !== undefined && written - (arrival ?? 0) > total / 50) at.push([written, `${name.replaceAll("_", " ")} written`]);
  }
  for (const attempt of record.failed_attempts ?? []) at.push([attempt.at_us + attempt.us, `${attempt.backend}: ${attempt.code}`]);
  for (const resume of record.resumes ?? []) at.push([resume.at_us, `resumed by ${resume.backend}`]);
  if (at.length === 0) return null;
  at.sort((a, b) => a[0] - b[0]);
  const merged = [];
  for (const [us, name] of at) {
    const last = merged.at(-1);
    if (last && us - last.us < total / 100) last.names.push(name);
    else merged.push({ us, names: [name] });
  }
  const words = merged.map(({ us, names }) => `${names.join(", ")} at ${duration(us)}`);
  return [
    h("div", { class: "line", role: "img", "aria-label": words.join("; ") }, merged.map(({ us }) => h("i", { style: { left: `${(100 * us) / total}%` } }))),
    h("ol", { class: "marks" }, merged.map(({ us, names }) => h("li", {}, h("b", {}, duration(us)), ` ${names.join(", ")}`))),
  ];
}

/** Each token event on the time line of the request, as it was read and as it was written. */
function events(record, times) {
  if (!record.content_events) return null;
  if (!times) return h("p", { class: "notice" }, "Times of single events are kept in memory, for the recent requests only (the setting ", h("code", {}, "limits.records"), ").");
  const row = (name, { events: count, every, at_us: at }) => {
    const gaps = at.slice(1).map((us, index) => us - at[index]);
    const note = every > 1 ? `, every ${number(every)}th is shown` : gaps.length > 0 ? `, longest gap ${duration(Math.max(...gaps))}` : "";
    const text = `${number(count)} token events ${name}${note}`;
    return [
      h("div", { class: "line events", role: "img", "aria-label": text }, at.map((us) => h("i", { style: { left: `${(100 * us) / record.total_us}%` } }))),
      h("p", { class: "events" }, text),
    ];
  };
  return [row("read", times.arrival), row("written", times.written)];
}

function figures(record) {
  const usage = record.usage ?? {};
  const overhead = record.guardrail_overhead;
  const gaps = record.client_itl_us;
  const split = record.engine_split;
  const tokens = (count, isEstimate) => (count === undefined ? null : h("span", { class: isEstimate ? "estimate" : null }, number(count), isEstimate ? " (estimate)" : ""));
  const off = record.predicted_ttft_us && record.engine_ttft_us ? `${duration(record.predicted_ttft_us)}; measured ${duration(record.engine_ttft_us)}` : null;
  return list([
    ["Client TTFT", record.client_ttft_us === undefined ? null : duration(record.client_ttft_us)],
    ["without guardrails", overhead?.ttft_without_us === undefined ? null : duration(overhead.ttft_without_us)],
    ["Engine TTFT", record.engine_ttft_us === undefined ? null : duration(record.engine_ttft_us)],
    ...Object.entries(split ?? {}).filter(([, value]) => typeof value === "number").map(([name, value]) => [`engine: ${name.replace(/_us$/, "").replaceAll("_", " ")}`, duration(value)]),
    ["Engine's own figures", split?.disagrees ? h("span", { class: "bad" }, "contradict the measurement") : null],
    ["TPOT", record.tpot_us === undefined ? null : h("span", { class: usage.estimated ? "estimate" : null }, duration(record.tpot_us))],
    ["Gaps at the client", gaps ? `p50 ${duration(gaps.p50)}, p99 ${duration(gaps.p99)}, longest ${duration(gaps.max)}` : null],
    ["Stalls", record.stalls === undefined ? null : number(record.stalls)],
    ["Predicted TTFT", off],
    ["Tokens in", tokens(usage.prompt_tokens, usage.prompt_estimated)],
    ["of them cached", usage.cached_tokens === undefined ? null : number(usage.cached_tokens)],
    ["Tokens out", tokens(usage.completion_tokens, usage.estimated)],
    ["Cost", record.cost === undefined ? null : h("span", { class: "estimate" }, `$${record.cost}`)],
    ["Events", record.events === undefined ? null : `${number(record.events)}, ${number(record.content_events)} with text`],
    ["Finished", record.finish_reasons?.join(", ")],
    ["Bytes", `${number(record.bytes_from_client)} from the client, ${number(record.bytes_to_client)} to it`],
  ]);
}

function decisions(record) {
  const guardrail = record.guardrail;
  const findings = (side) => Object.entries(guardrail?.[side] ?? {}).map(([rule, count]) => `${rule} (${number(count)})`).join(", ");
  return list([
    ["Outcome", [record.outcome, record.error_code].filter(Boolean).join(": ")],
    ["Backend", record.backend ? `${record.backend}${record.chosen ? `: ${String(record.chosen).replaceAll("_", " ")}` : ""}${record.pool ? `, pool ${record.pool}` : ""}` : "none was called"],
    ["Attempts before", record.failed_attempts?.map((attempt) => `${attempt.backend}: ${attempt.code} after ${duration(attempt.us)}`).join("; ")],
    ["Hedge", record.hedge ? `${record.hedge.backend} after ${duration(record.hedge.after_us)}, ${record.hedge.won ? "it answered first" : "it lost"}` : null],
    ["Resumed", record.resumes?.map((resume) => `${resume.backend} after ${number(resume.after_tokens)} tokens`).join("; ")],
    ["Retry", record.retry_denied ? `denied: ${record.retry_denied}` : null],
    ["Guardrail", guardrail ? `${guardrail.guardrail}: ${guardrail.verdict}, risk ${Number(guardrail.risk ?? 0).toFixed(2)} (${guardrail.level ?? ""})` : "none on this route"],
    ["Found in the prompt", findings("input")],
    ["Found in the answer", findings("output")],
    ["Caller", [record.caller, record.owner].filter(Boolean).join(", ")],
    ["Trace", record.trace_id],
    ["API", `${record.endpoint}, ${record.dialect ?? "not a model API"}${record.stream ? ", streamed" : ""}`],
  ]);
}

function filters(guardrail) {
  const rows = (guardrail.filters ?? []).map((one) => [one.filter, one.side, one.verdict, duration(one.wall_us), duration(one.cpu_us), duration(one.queue_us), duration(one.remote_us), one.critical ? "yes" : ""]);
  return table("Filters of the guardrail", [
    { head: "Filter", text: true }, { head: "Side", text: true }, { head: "Verdict", text: true }, { head: "Wall time" }, { head: "CPU" }, { head: "Queue" }, { head: "Remote" }, { head: "Critical", text: true },
  ], rows);
}
