// Saved views: names for the filters of a page, in the storage of this browser.

const KEY = "llm-lens.views";
const MAX_VIEWS = 50;
export const MAX_NAME = 60;

/** The views, `{name, query}`; none if the browser keeps none, or another program has written them. */
export function views() {
  try {
    const stored = JSON.parse(localStorage.getItem(KEY) ?? "[]");
    return Array.isArray(stored) ? stored.filter((one) => typeof one?.name === "string" && typeof one.query === "string").slice(0, MAX_VIEWS) : [];
  } catch {
    return [];
  }
}

/** Saves a view; one of the same name is replaced. Returns what is wrong, or null. */
export function save(name, query) {
  const others = views().filter((one) => one.name !== name);
  if (others.length >= MAX_VIEWS) return `This browser has ${MAX_VIEWS} views; delete one first.`;
  return store([...others, { name: name.slice(0, MAX_NAME), query }]);
}

export const remove = (name) => store(views().filter((one) => one.name !== name));

function store(all) {
  try {
    localStorage.setItem(KEY, JSON.stringify(all.sort((a, b) => a.name.localeCompare(b.name))));
    return null;
  } catch {
    return "This browser does not store views; the address of this page has the same filters.";
  }
}
