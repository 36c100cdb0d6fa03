// Playground: sends a chat through the gateway, shows the answer as it arrives, and then where its time went.

import { get } from "../lib/api.js";
import { h, list } from "../lib/dom.js";
import { duration, number } from "../lib/format.js";
import { refusal, send, session } from "../lib/session.js";
import { marks, waterfall } from "./request.js";

/** How long the page waits for the record of a request that has ended. */
const RECORD_MS = 5000;
const RECORD_INTERVAL_MS = 200;

/** What the form holds, while the page is loaded: the key is stored nowhere. */
const draft = { route: "", model: "", system: "", user: "Why is the sky blue? Answer in one sentence.", max_tokens: "128", key: "" };

export async function make() {
  const { problem, listener, routes, models } = await get("/api/playground");
  const heading = h("h1", {}, "Playground ", h("small", {}, "one request through the gateway, with its limits and guardrails"));
  const why = problem ?? (session?.role === "viewer" ? "Sending needs a token with the role operator." : null);
  if (why) return { title: "Playground", refreshes: false, content: [heading, h("section", { class: "card" }, h("p", { class: "notice" }, why))] };
  draft.model ||= models[0] ?? "";
  const shown = h("section", { class: "card", hidden: true });
  const sending = { now: null };
  return {
    title: "Playground",
    refreshes: false,
    leave: () => sending.now?.abort(),
    content: [heading, h("section", { class: "card" }, form({ listener, routes, models, shown, sending })), shown],
  };
}

function form({ listener, routes, models, shown, sending }) {
  const keep = (event) => {
    draft[event.target.name] = event.target.value;
  };
  const stop = h("button", { type: "button", disabled: true, onclick: () => sending.now?.abort() }, "Stop");
  const submit = async (event) => {
    event.preventDefault();
    if (sending.now) return;
    sending.now = new AbortController();
    stop.disabled = false;
    try {
      await run(shown, sending.now.signal);
    } finally {
      sending.now = null;
      stop.disabled = true;
    }
  };
  const text = (name, label, rows) => h("label", {}, label, h("textarea", { name, rows }, draft[name]));
  const input = (name, label, attributes) => h("label", {}, label, h("input", { name, value: draft[name], ...attributes }));
  return h("form", { class: "play", onsubmit: submit, oninput: keep },
    h("div", { class: "filters" },
      h("label", {}, "Route", h("select", { name: "route" }, [["", "as the gateway chooses"], ...routes.map((name) => [name, name])].map(([value, title]) =>
        h("option", { value, selected: value === draft.route }, title)))),
      input("model", "Model", { list: "playground-models", required: true, size: 24 }),
      h("datalist", { id: "playground-models" }, models.map((name) => h("option", { value: name }))),
      input("max_tokens", "Max tokens", { type: "number", min: 1, max: 1_000_000, required: true }),
      input("key", "Key of the gateway, if it requires one", { type: "password", autocomplete: "off", size: 24 })),
    text("system", "System message", 2), text("user", "User message", 4),
    h("p", { class: "filters" }, h("button", {}, "Send"), stop, h("span", { class: "notice" }, `Sent to ${listener}.`)));
}

/** The request of the form. */
function request() {
  const messages = [["system", draft.system], ["user", draft.user]].filter(([, content]) => content).map(([role, content]) => ({ role, content }));
  return {
    route: draft.route || null,
    key: draft.key || null,
    request: { model: draft.model, messages, max_tokens: Number(draft.max_tokens), stream: true },
  };
}

async function run(shown, signal) {
  const state = h("p", { class: "notice", role: "status" }, "Waiting for the first token.");
  const answer = h("pre", { class: "answer", tabindex: 0, "aria-label": "Answer" });
  const after = h("div", {});
  shown.hidden = false;
  shown.replaceChildren(h("h2", {}, "Answer"), state, answer, after);
  const seen = { began: performance.now(), first: null, events: 0, finish: null, problem: null };
  let id = null;
  try {
    const response = await send("POST", "/api/playground", request(), { signal });
    // The gateway's own answer, such as a limit, is an answer as well.
    if (!response.headers.has("x-llm-lens-playground")) throw await refusal(response);
    id = response.headers.get("x-request-id");
    await read(response, seen, (text) => answer.append(text), state);
  } catch (error) {
    seen.problem = signal.aborted ? "stopped" : error.message;
  }
  state.textContent = seen.problem ? `Ended: ${seen.problem}.` : `Ended${seen.finish ? ` (${seen.finish})` : ""} after ${since(seen)}.`;
  state.className = seen.problem ? "notice bad" : "notice";
  if (id) after.replaceChildren(...(await whereTheTimeWent(id)));
}

const since = ({ began }) => duration(1000 * (performance.now() - began));

/** Read an answer: events, or one JSON document. */
async function read(response, seen, write, state) {
  if (!(response.headers.get("content-type") ?? "").startsWith("text/event-stream")) {
    const text = await response.text();
    take(parse(text) ?? { error: { message: text.slice(0, 500) || `HTTP ${response.status}` } }, seen, write);
    if (!response.ok) seen.problem ??= `HTTP ${response.status}`;
    return;
  }
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    const lines = (rest + (done ? "\n" : value)).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      const event = line.startsWith("data:") ? parse(line.slice(5)) : null;
      if (event) take(event, seen, write);
    }
    if (done) return;
    if (seen.first !== null) state.textContent = `First token after ${duration(1000 * (seen.first - seen.began))}; ${number(seen.events)} events with text.`;
  }
}

function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

/** Take the text, the finish reason or the error of an event or a document. */
function take(event, seen, write) {
  if (event.error) seen.problem = event.error.message ?? String(event.error);
  for (const choice of event.choices ?? []) {
    const part = choice.delta ?? choice.message ?? {};
    const text = `${part.reasoning_content ?? part.reasoning ?? ""}${part.content ?? ""}`;
    if (text) {
      seen.first ??= performance.now();
      seen.events += 1;
      write(text);
    }
    seen.finish = choice.finish_reason ?? seen.finish;
  }
}

/** The record of a request as on its own page; it is written a moment after the answer. */
async function whereTheTimeWent(id) {
  const until = performance.now() + RECORD_MS;
  for (;;) {
    const [record] = (await get("/api/requests", { id, limit: 1 })).requests;
    if (record) {
      const link = h("a", { href: `#/request/${encodeURIComponent(record.unique_id ?? record.id)}` }, record.id);
      return [list([["Request", link], ["Route", record.route], ["Backend", record.backend], ["Outcome", [record.outcome, record.error_code].filter(Boolean).join(": ")]]), ...waterfall(record), ...(marks(record) ?? [])];
    }
    if (performance.now() > until) return [h("p", { class: "notice" }, `The record of the request ${id} is not among the recent ones; limits.records bounds them.`)];
    await new Promise((done) => setTimeout(done, RECORD_INTERVAL_MS));
  }
}
