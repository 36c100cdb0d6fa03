// The shell: navigation, the page of the address, refreshing it, and what to do when the gateway does not answer.

import { h } from "./lib/dom.js";
import { Refused } from "./lib/api.js";
import * as sessions from "./lib/session.js";
import * as overview from "./pages/overview.js";
import * as latency from "./pages/latency.js";
import * as requests from "./pages/requests.js";
import * as request from "./pages/request.js";
import * as guardrails from "./pages/guardrails.js";
import * as backends from "./pages/backends.js";
import * as usage from "./pages/usage.js";
import * as settings from "./pages/settings.js";
import * as playground from "./pages/playground.js";
import * as definitions from "./pages/definitions.js";
import * as signIn from "./pages/sign_in.js";

const PAGES = { "": overview, latency, requests, request, guardrails, backends, usage, settings, playground, definitions };
const NAV = [["", "Overview"], ["latency", "Latency"], ["requests", "Requests"], ["guardrails", "Guardrails"], ["backends", "Backends"], ["usage", "Usage and cost"], ["settings", "Settings"], ["playground", "Playground"], ["definitions", "Definitions"]];

/** How often a page that refreshes asks again. */
const REFRESH_MS = 3000;

const main = document.getElementById("main");
const nav = document.getElementById("nav");
const state = document.getElementById("state");
const session = document.getElementById("session");
let shown = 0;
let timer = null;
/** Ends what the shown page has started, such as its live stream. */
let leave = null;
/** Whether the shown page refreshes itself. */
let refreshes = false;

/** The page and the parameters of the address: `#/requests/ID?route=chat`. */
function place() {
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  const [name, ...rest] = path.split("/");
  return { name, argument: decodeURIComponent(rest.join("/")), params: new URLSearchParams(query) };
}

function showState(text, isBad) {
  state.textContent = text;
  state.className = isBad ? "pill bad" : "pill";
}

async function show(isRefresh) {
  clearTimeout(timer);
  const now = ++shown;
  const { name, argument, params } = place();
  const page = PAGES[name];
  if (!page) {
    location.hash = "#/";
    return;
  }
  if (!isRefresh) {
    leave?.();
    leave = null;
    const current = name === "request" ? "requests" : name;
    nav.replaceChildren(...NAV.map(([id, title]) => h("a", { href: `#/${id}`, "aria-current": id === current ? "page" : null }, title)));
  }
  try {
    if (!sessions.session) showSession(await sessions.load());
    const made = await page.make({ argument, params, refresh: () => show(true) });
    // The reader has gone to another page in the meantime.
    if (now !== shown) {
      made.leave?.();
      return;
    }
    document.title = `${made.title} - LLM Latency Lens`;
    const isPaused = isRefresh && isBusy();
    if (isPaused) {
      made.leave?.();
    } else {
      keepFocus(() => main.replaceChildren(...made.content));
      leave?.();
      leave = made.leave;
    }
    refreshes = made.refreshes;
    const live = isPaused ? "paused while you read" : `live, ${new Date().toLocaleTimeString()}`;
    showState(made.refreshes ? live : "loaded", false);
    if (!isRefresh) main.focus({ preventScroll: true });
    if (made.refreshes) timer = setTimeout(() => (document.hidden ? null : show(true)), REFRESH_MS);
  } catch (error) {
    if (now !== shown) return;
    if (error instanceof Refused && error.status === 401) {
      showSignIn();
      return;
    }
    const why = error instanceof Refused ? error.message : "the gateway does not answer; trying again";
    showState(why, true);
    if (!isRefresh) main.replaceChildren(h("p", { class: "notice", role: "alert" }, `${why}.`));
    timer = setTimeout(() => show(main.children.length > 1), REFRESH_MS);
    console.error(error);
  }
}

/** The token in use, and the way to leave it. */
function showSession(current) {
  const signOut = async () => {
    try {
      await sessions.signOut();
    } catch (error) {
      // A session that has ended already is what the reader wants.
      if (!(error instanceof Refused)) throw error;
    }
    show(false);
  };
  session.replaceChildren(...(current?.auth ? [`${current.name}, ${current.role} `, h("button", { type: "button", onclick: signOut }, "Sign out")] : []));
}

/** The form of the token, in place of the page. Nothing is read until it is filled in. */
function showSignIn() {
  leave?.();
  leave = null;
  refreshes = false;
  sessions.forget();
  showSession(null);
  showState("signed out", false);
  document.title = "Sign in - LLM Latency Lens";
  const form = signIn.form(() => {
    showSession(sessions.session);
    show(false);
  });
  main.replaceChildren(form.element);
  form.focus();
}

/** Whether the reader is in the middle of something that a new page would take away. */
function isBusy() {
  const focused = document.activeElement;
  const isTyping = main.contains(focused) && ["INPUT", "SELECT", "TEXTAREA"].includes(focused.tagName);
  const isAsked = main.querySelector("[role=status] button") !== null;
  return isTyping || isAsked || main.querySelector("details[open]") !== null || !document.getSelection()?.isCollapsed;
}

/** Replaces the content; what had the focus has it afterwards, too. */
function keepFocus(replace) {
  const path = [];
  for (let at = document.activeElement; at && at !== main && main.contains(at); at = at.parentElement) {
    path.unshift([...at.parentElement.children].indexOf(at));
  }
  const tag = document.activeElement?.tagName;
  replace();
  const again = path.reduce((at, index) => at?.children[index], main);
  if (path.length > 0 && again?.tagName === tag) again.focus({ preventScroll: true });
}

addEventListener("hashchange", () => show(false));
// A hidden page reads nothing.
document.addEventListener("visibilitychange", () => {
  if (!document.hidden && refreshes) show(true);
});
show(false);
