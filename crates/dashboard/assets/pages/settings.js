// Settings: what is in force, and the last reload.

import { get } from "../lib/api.js";
import { empty, h, list } from "../lib/dom.js";

export async function make() {
  const { settings, last_reload } = await get("/api/settings");
  const sections = Object.entries(settings).filter(([, value]) => value !== null && !(Array.isArray(value) && value.length === 0));
  return {
    title: "Settings",
    refreshes: false,
    content: [
      h("h1", {}, "Settings ", h("small", {}, "in force; secrets are masked")),
      h("section", { class: "card" }, h("h2", {}, "Last reload"),
        last_reload ? list(Object.entries(last_reload).map(([name, value]) => [name.replaceAll("_", " "), typeof value === "string" ? value : JSON.stringify(value)])) : empty("The settings are those of the start.")),
      h("section", { class: "card" }, sections.map(([name, value]) =>
        h("details", { class: "section" }, h("summary", {}, name), h("pre", { tabindex: 0 }, JSON.stringify(value, null, 2))))),
    ],
  };
}
