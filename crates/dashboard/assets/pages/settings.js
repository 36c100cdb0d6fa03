// Settings: what is in force, where it is written, the last reload, and what a change would do.

import { get } from "../lib/api.js";
import { empty, h, list } from "../lib/dom.js";
import { dateTime } from "../lib/format.js";
import { checkForm } from "./check.js";

export async function make() {
  const { settings, last_reload, source } = await get("/api/settings");
  const sections = Object.entries(settings).filter(([, value]) => value !== null && !(Array.isArray(value) && value.length === 0));
  const written = (path) => (source?.lines[path] ? h("small", { class: "notice" }, ` line ${source.lines[path]}`) : null);
  return {
    title: "Settings",
    refreshes: false,
    content: [
      h("h1", {}, "Settings ", h("small", {}, "in force; secrets are masked")),
      h("section", { class: "card" }, h("h2", {}, "Last reload"), reload(last_reload)),
      checkForm(),
      h("section", { class: "card" }, h("h2", {}, "In force ", h("small", {}, where(source))),
        sections.map(([name, value]) => section(name, name, value, written))),
    ],
  };
}

function where(source) {
  if (!source) return "the gateway was started without a settings file";
  return source.lines ? `lines of ${source.file}; without a line, the default` : `${source.file} has other settings now`;
}

function reload(last) {
  if (!last) return empty("The settings are those of the start.");
  return list([
    ["At", dateTime(new Date(last.at_us / 1000))],
    ["Result", last.problems ? h("span", { class: "bad" }, "failed; the settings are unchanged") : "in force"],
    ["Problems", last.problems ? h("pre", { tabindex: 0 }, last.problems) : null],
    ["Protection lost", last.removed.length > 0 ? h("span", { class: "bad" }, last.removed.join("; ")) : "none"],
  ]);
}

/** A section; a list of named entries has a section for each. */
function section(title, path, value, written) {
  const isNamed = Array.isArray(value) && value.every((entry) => typeof entry?.name === "string");
  const content = isNamed ? value.map((entry) => section(entry.name, `${path}[${entry.name}]`, entry, written)) : h("pre", { tabindex: 0 }, JSON.stringify(value, null, 2));
  return h("details", { class: "section" }, h("summary", {}, title, written(path)), content);
}
