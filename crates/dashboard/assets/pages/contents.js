// The stored prompt and answer of a request. Nothing is read before the reader has given a name,
// because each read is a line of the audit log.

import { get } from "../lib/api.js";
import { empty, h } from "../lib/dom.js";

/** The card of a request on a route with a guardrail: only these can store texts. */
export function contents(record) {
  const result = h("div", { "aria-live": "polite" });
  const name = h("input", { name: "operator", required: true, maxlength: 128, autocomplete: "name", pattern: "[\\x20-\\x7e]*[\\x21-\\x7e][\\x20-\\x7e]*" });
  const submit = async (event) => {
    event.preventDefault();
    result.replaceChildren(h("p", {}, "Reading…"));
    try {
      result.replaceChildren(...parts(await read(record.unique_id ?? record.id, name.value)));
    } catch (error) {
      result.replaceChildren(empty(error.message));
    }
  };
  return [
    h("h2", {}, "Prompt and answer ", h("small", {}, "redacted; on routes with store_contents")),
    h("form", { class: "filters", onsubmit: submit }, h("label", {}, "Your name, for the audit log", name), h("button", {}, "Read")),
    result,
  ];
}

const read = (id, operator) => get(`/api/requests/${encodeURIComponent(id)}/contents`, {}, { "x-llm-lens-operator": operator });

function parts({ prompt, answer }) {
  return [["Prompt", prompt], ["Answer", answer]].map(([title, part]) => h("section", {},
    h("h3", {}, title, " ", h("small", {}, missing(part))),
    part.texts.map((text) => [h("h4", {}, source(text)), h("pre", { tabindex: 0 }, text.text)])));
}

/** What of a part is not stored. */
function missing({ texts, cut, incomplete }) {
  return [cut ? "cut" : "", incomplete ? String(incomplete).replaceAll("_", " ") : "", texts.length === 0 ? "no text" : ""].filter(Boolean).join(", ");
}

function source({ role, channel, choice, index }) {
  if (role !== undefined) return String(role).replaceAll("_", " ");
  const place = [choice > 0 ? `choice ${choice}` : "", index > 0 ? `call ${index}` : ""].filter(Boolean);
  return [String(channel).replaceAll("_", " "), ...place].join(", ");
}
