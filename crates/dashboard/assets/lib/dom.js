// Elements from values. Text is always a text node, so that nothing from outside becomes markup.

/** An element: `h("td", {class: "text"}, "a", child)`. Attributes that are null or false are left out. */
export function h(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key === "style") Object.assign(element.style, value);
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** A table: `columns` are `{head, text, title, href}`, `rows` are lists of cells. */
export function table(caption, columns, rows) {
  const head = columns.map((column) =>
    h("th", { scope: "col", class: column.text ? "text" : null }, column.href ? h("a", { href: column.href }, column.head) : column.head));
  const body = rows.map((cells) =>
    h("tr", {}, cells.map((cell, at) => {
      const column = columns[at] ?? {};
      const kind = [column.text ? "text" : "", column.wide ? "wide" : ""].join(" ").trim() || null;
      return at === 0 ? h("th", { scope: "row", class: "text" }, cell) : h("td", { class: kind }, cell);
    })));
  // A region that scrolls must be reachable by keyboard.
  return h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": typeof caption === "string" ? caption : caption.textContent },
    h("table", {}, h("caption", {}, caption), h("thead", {}, h("tr", {}, head)), h("tbody", {}, body)));
}

/** Names and values below each other. Pairs without a value are left out. */
export function list(pairs) {
  const shown = pairs.filter(([, value]) => value !== null && value !== undefined && value !== "");
  return h("dl", {}, shown.map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
}

/** What is shown where there is nothing yet: what to do next. */
export function empty(...text) {
  return h("p", { class: "notice" }, ...text);
}
