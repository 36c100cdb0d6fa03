// Requests: stored ones by facets and pages, or the recent ones; and a live tail.

import { get, stored } from "../lib/api.js";
import { empty, h, table } from "../lib/dom.js";
import { dateTime, duration, number } from "../lib/format.js";
import { MAX_NAME, remove, save, views } from "../lib/views.js";

const FIELDS = ["route", "backend", "model", "outcome", "owner", "error_code", "status"];
const TAIL_ROWS = 200;
const FROM = [["15m", "15 minutes"], ["1h", "hour"], ["6h", "6 hours"], ["1d", "day"], ["7d", "7 days"], ["", "any time"]];

export async function make({ params, refresh }) {
  const query = Object.fromEntries(params);
  const isLive = query.live === "true";
  delete query.live;
  const content = [h("h1", {}, "Requests")];
  // Without a store, there are the recent records, which have fewer filters.
  const { data: facets, problem } = await stored("/api/facets", { fields: FIELDS.join(","), limit: 8, from: query.from, to: query.to });
  if (problem) content.push(h("p", { class: "notice bad" }, `Stored records cannot be read, these are the recent ones: ${problem}.`));
  content.push(filters(query, facets !== null, isLive), savedViews(query));
  if (query.to) content.push(h("p", { class: "notice" }, `Requests from ${dateTime(new Date(query.from))} to ${dateTime(new Date(query.to))}. `, h("a", { href: link({ ...query, from: "", to: "", after: "" }) }, "Show all times")));
  if (facets) content.push(h("section", { class: "card facets", "aria-label": "Values of stored requests" }, facetLinks(facets.facets, query)));
  if (isLive) {
    const tail = liveTail(query);
    return { title: "Requests", refreshes: false, leave: tail.leave, content: [...content, tail.element] };
  }
  const page = facets ? await get("/api/records", { limit: 100, ...query }) : { records: (await get("/api/requests", { limit: 100, ...query })).requests };
  content.push(h("section", { class: "card" }, page.records.length > 0 ? records(page.records) : nothing(query)));
  if (page.next) content.push(h("p", {}, h("a", { href: link({ ...query, after: page.next }) }, "Older requests")));
  for (const problem of page.problems ?? []) content.push(h("p", { class: "notice bad" }, `${problem}`));
  if (page.timed_out) content.push(h("p", { class: "notice" }, "The search ended after its time; older requests continue it."));
  content.push(h("p", {}, h("button", { type: "button", onclick: refresh }, "Refresh")));
  return { title: "Requests", refreshes: false, content };
}

const link = (query) => `#/requests?${new URLSearchParams(Object.entries(query).filter(([, value]) => value !== null && value !== undefined && value !== ""))}`;

function nothing(query) {
  return Object.keys(query).length > 0 ? empty("No request matches. ", h("a", { href: "#/requests" }, "Remove the filters"), ".") : empty("No request yet. Send one to the gateway: clients only change their base URL.");
}

function filters(query, hasStore, isLive) {
  const submit = (event) => {
    event.preventDefault();
    const form = Object.fromEntries(new FormData(event.currentTarget));
    // A time that was chosen replaces the interval of a cell.
    if (form.from) form.to = "";
    else delete form.from;
    if (form.id) location.hash = link({ id: form.id });
    else location.hash = link({ ...query, ...form, after: "" });
  };
  const input = (name, label, placeholder) => h("label", {}, label, h("input", { name, value: query[name] ?? "", placeholder, size: 12 }));
  return h("form", { class: "filters", onsubmit: submit },
    input("id", "Id of a request", ""),
    input("slower_than", "Duration over", "5s"),
    hasStore && !isLive ? input("ttft_over", "TTFT over", "1s") : null,
    hasStore && !isLive ? h("label", {}, "From the last", h("select", { name: "from" }, FROM.map(([id, title]) => h("option", { value: id, selected: id === (query.from ?? "") }, title)))) : null,
    h("button", {}, "Search"),
    h("a", { href: link(isLive ? query : { ...query, after: "", live: "true" }) }, isLive ? "Leave the live tail" : "Live tail"));
}

/** Names for filters, which this browser keeps, and a name for those of the page. */
function savedViews(query) {
  const element = h("section", { class: "views", "aria-label": "Saved views" });
  const now = new URLSearchParams(Object.entries(query).filter(([name, value]) => name !== "after" && value !== "")).toString();
  const told = h("span", { class: "notice", role: "status" });
  const show = (message) => {
    told.textContent = message ?? "";
    const all = views();
    const name = h("input", { name: "view", required: true, maxlength: MAX_NAME, size: 14, placeholder: "slow ones" });
    const submit = (event) => {
      event.preventDefault();
      if (name.value.trim()) show(save(name.value.trim(), now));
    };
    element.replaceChildren(...[
      all.length > 0 ? h("ul", {}, all.map((one) => h("li", {},
        h("a", { href: one.query ? `#/requests?${one.query}` : "#/requests", "aria-current": one.query === now ? "true" : null }, one.name),
        h("button", { type: "button", "aria-label": `Delete the view ${one.name}`, title: "Delete", onclick: () => show(remove(one.name)) }, "×")))) : null,
      h("form", { class: "filters", onsubmit: submit }, h("label", {}, "Save these filters as", name), h("button", {}, "Save")), told,
    ].filter(Boolean));
  };
  show(null);
  return element;
}

/** Values of a field as links that select them, and the selected one as a link that does not. */
function facetLinks(facets, query) {
  return FIELDS.filter((field) => facets[field]?.values.length > 0).map((field) => h("div", {}, h("span", { class: "notice" }, field.replaceAll("_", " ")),
    facets[field].values.map(({ value, records }) => {
      const isSelected = query[field] === value;
      const to = link({ ...query, after: "", [field]: isSelected ? "" : value });
      return h("a", { href: to, "aria-current": isSelected ? "true" : null }, `${value} `, h("small", {}, number(records)));
    }), facets[field].others > 0 ? h("small", { class: "notice" }, `others ${number(facets[field].others)}`) : null));
}

const COLUMNS = [
  { head: "Time", text: true }, { head: "Route", text: true }, { head: "Backend", text: true }, { head: "Model", text: true }, { head: "Outcome", text: true },
  { head: "Client TTFT", href: "#/definitions?of=client_ttft" }, { head: "TPOT", href: "#/definitions?of=tpot" }, { head: "Duration", href: "#/definitions?of=total" }, { head: "Tokens in" }, { head: "Tokens out" },
];

function row(record) {
  // Stored rows have fewer fields than records.
  const isEstimate = record.estimated ?? record.usage?.estimated;
  const estimate = (text) => h("span", { class: isEstimate ? "estimate" : null }, text);
  return [
    h("a", { href: `#/request/${encodeURIComponent(record.unique_id ?? record.id)}` }, dateTime(new Date(record.started_at))),
    record.route, record.backend ?? "", record.model ?? record.model_requested ?? "",
    h("span", { class: record.outcome === "ok" ? null : "bad" }, record.outcome === "ok" ? "ok" : [record.outcome, record.error_code].filter(Boolean).join(": ")),
    duration(record.client_ttft_us), estimate(duration(record.tpot_us)), duration(record.total_us),
    number(record.input_tokens ?? record.usage?.prompt_tokens), estimate(number(record.output_tokens ?? record.usage?.completion_tokens)),
  ];
}

const records = (all) => table("Requests, newest first", COLUMNS, all.map(row));

/** Requests as they end. It holds what the reader pauses. */
function liveTail(query) {
  const filter = Object.entries(query).filter(([name, value]) => value && ["route", "backend", "model", "owner", "outcome"].includes(name));
  const source = new EventSource(`/api/live?${new URLSearchParams([...filter, ["events", "record"]])}`);
  const section = h("section", { class: "card" }, empty("Waiting for requests that end."));
  const state = h("span", { class: "notice", role: "status" });
  let all = [];
  let isPaused = false;
  let missed = 0;
  const show = () => {
    if (!isPaused && all.length > 0) section.replaceChildren(records(all));
    state.textContent = isPaused ? ` paused, ${missed} newer` : "";
  };
  source.addEventListener("record", (event) => {
    all = [JSON.parse(event.data), ...all].slice(0, TAIL_ROWS);
    missed += isPaused ? 1 : 0;
  });
  source.addEventListener("gap", (event) => {
    const { skipped } = JSON.parse(event.data);
    state.textContent = skipped ? ` ${number(skipped)} requests were skipped` : " the gateway has restarted";
  });
  const timer = setInterval(show, 250);
  const pause = h("button", { type: "button", "aria-pressed": "false" }, "Pause");
  pause.addEventListener("click", () => {
    isPaused = !isPaused;
    missed = 0;
    pause.setAttribute("aria-pressed", String(isPaused));
    show();
  });
  const leave = () => {
    clearInterval(timer);
    source.close();
  };
  return { leave, element: h("div", {}, h("p", {}, pause, state), section) };
}
