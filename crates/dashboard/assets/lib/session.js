// The token in use: its name and role, signing in and out. The browser keeps the cookie; no script can read it.

import { get, Refused } from "./api.js";

/** The session: `{auth, name, role, session_left_s}`; null while it is not known or the gateway requires a token. */
export let session = null;

/** Read the session. Fails as `get` does: with status 401, a token is required. */
export async function load() {
  session = null;
  session = await get("/api/session");
  return session;
}

/** Forget the session, for example because the gateway has answered 401. */
export function forget() {
  session = null;
}

/** Sign in with a token. */
export async function signIn(token) {
  session = await change("POST", "/api/session", { token });
  return session;
}

/** Sign out. */
export async function signOut() {
  await change("DELETE", "/api/session");
  session = null;
}

/** Send a change, as an answer of `fetch`. Pages of other sites cannot set the operator's header. */
export function send(method, path, body, options = {}) {
  const headers = { accept: "application/json", "content-type": "application/json", "x-llm-lens-operator": "dashboard" };
  return fetch(path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body), ...options });
}

/** Send a change; its answer as JSON. */
async function change(method, path, body) {
  const answer = await send(method, path, body);
  if (!answer.ok) throw await refusal(answer);
  return answer.status === 204 ? null : answer.json();
}

/** The error of an answer. */
export async function refusal(answer) {
  let message = `HTTP ${answer.status}`;
  try {
    message = (await answer.json()).error.message;
  } catch {
    // Not an error of the gateway.
  }
  return new Refused(answer.status, message);
}
