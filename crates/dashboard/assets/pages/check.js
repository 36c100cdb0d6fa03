// What a settings file would do: its problems, and what differs from the settings in force.

import { empty, h, table } from "../lib/dom.js";
import { number } from "../lib/format.js";
import { refusal, send, session } from "../lib/session.js";

const MAX_TEXT = 1 << 20;

/** What the reader has written, while the page is loaded. */
let draft = "";

/** The form, and below it what the last check has found. */
export function checkForm() {
  const heading = h("h2", {}, "Check a change ", h("small", {}, "nothing is changed or stored; llm-lens check does the same on the gateway's machine"));
  if (session?.role === "viewer") return h("section", { class: "card" }, heading, empty("Checking needs a token with the role operator."));
  const text = h("textarea", { rows: 12, spellcheck: "false", class: "code", "aria-describedby": "check-help", oninput: () => (draft = text.value) }, draft);
  const result = h("div", { "aria-live": "polite", class: "play" });
  const button = h("button", {}, "Check");
  const say = (...content) => result.replaceChildren(...content);
  const open = async (event) => {
    const file = event.currentTarget.files[0];
    event.currentTarget.value = "";
    if (!file) return;
    if (file.size > MAX_TEXT) {
      say(h("p", { class: "notice bad" }, `${file.name} has more than 1 MiB.`));
      return;
    }
    text.value = draft = await file.text();
    say();
  };
  const submit = async (event) => {
    event.preventDefault();
    button.disabled = true;
    say(h("p", { class: "notice" }, "Checking."));
    try {
      const answer = await send("POST", "/api/settings/check", undefined, { body: text.value, headers: { "x-llm-lens-operator": "dashboard", "content-type": "application/yaml" } });
      if (!answer.ok) throw await refusal(answer);
      say(...shown(await answer.json(), (line) => goTo(text, line)));
    } catch (error) {
      say(h("p", { class: "notice bad" }, `${error.status ? error.message : "The gateway does not answer; try again"}.`));
    } finally {
      button.disabled = false;
    }
  };
  return h("section", { class: "card" }, heading,
    h("form", { class: "play", onsubmit: submit },
      h("label", {}, "Text of a settings file", text),
      h("p", { id: "check-help", class: "notice" }, "Secrets are never compared or shown, and neither secrets nor files are read: variables and backend files only where the settings file has the same text in the same setting."),
      h("p", { class: "filters" }, button, h("label", {}, "Open a file", h("input", { type: "file", accept: ".yaml,.yml,.json,text/plain", onchange: open })))),
    result);
}

/** Selects a line of the text. */
function goTo(text, line) {
  const lines = text.value.split("\n");
  const start = lines.slice(0, line - 1).join("\n").length + (line > 1 ? 1 : 0);
  text.focus();
  text.setSelectionRange(start, start + (lines[line - 1] ?? "").length);
  const height = Number.parseFloat(getComputedStyle(text).lineHeight) || 18;
  text.scrollTop = Math.max(0, (line - 4) * height);
}

function shown(found, go) {
  const parts = found.valid ? effect(found) : problems(found, go);
  if (found.notes.length > 0) parts.push(h("div", {}, h("h3", {}, "Notes"), h("ul", {}, found.notes.map((note) => h("li", {}, note)))));
  if (found.unread.length > 0) parts.push(h("p", { class: "notice" }, "Not read here, so not checked: ", found.unread.join(", "), ". Neither are certificates, keys and folders that the settings name."));
  return parts;
}

function problems({ problems: all, problems_total: total }, go) {
  const line = (one) => (one.line > 0 ? h("button", { type: "button", onclick: () => go(one.line), "aria-label": `Go to line ${one.line}` }, `${one.line}:${one.column}`) : "–");
  return [
    h("p", { role: "status", class: "bad" }, total === 1 ? "One problem; a gateway would not start with these settings." : `${number(total)} problems; a gateway would not start with these settings.`),
    table(total > all.length ? `The first ${number(all.length)} problems` : "Problems", [{ head: "Line", text: true }, { head: "Setting", text: true }, { head: "Problem", text: true, wide: true }],
      all.map((one) => [line(one), one.path, h("span", { class: "prose" }, one.message)])),
  ];
}

function effect({ changes, changes_total: total, loosened }) {
  const late = changes.filter((change) => change.needs_restart).length;
  const words = [`${number(total - late)} with a reload`, late > 0 ? `${number(late)} at the next start` : null].filter(Boolean).join(", ");
  const parts = [h("p", { role: "status", class: "good" }, total === 0 ? "Valid. No value differs from the settings in force; secrets are not compared." : `Valid. Values that change: ${words}.`)];
  if (loosened.length > 0) parts.push(h("div", {}, h("h3", { class: "bad" }, "Protection that is lost"), h("ul", {}, loosened.map((one) => h("li", {}, one)))));
  if (total > 0) {
    parts.push(table(total > changes.length ? `The first ${number(changes.length)} changes; times are in seconds` : h("span", {}, "Changes ", h("small", {}, "times are in seconds")),
      [{ head: "Setting", text: true }, { head: "In force", text: true }, { head: "New", text: true }, { head: "Takes effect", text: true }],
      changes.map((one) => [one.path, value(one.before), value(one.after), one.needs_restart ? h("b", {}, "at the next start") : "with a reload"])));
  }
  return parts;
}

/** A value of a setting, short enough for a table; the whole as a title. */
function value(one) {
  if (one === null) return h("span", { class: "notice" }, "none");
  const text = typeof one === "string" ? one : JSON.stringify(one);
  return h("span", { title: text.length > 80 ? text : null }, text.length > 80 ? `${text.slice(0, 80)}…` : text);
}
