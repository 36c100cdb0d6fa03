// Signing in, where the gateway requires a token.

import { Refused } from "../lib/api.js";
import { h } from "../lib/dom.js";
import { signIn } from "../lib/session.js";

/** The form; `then` is called after a sign-in. */
export function form(then) {
  const problem = h("p", { class: "notice bad", role: "alert" });
  const token = h("input", { type: "password", name: "token", autocomplete: "current-password", required: true, "aria-describedby": "sign-in-help", size: 40 });
  const button = h("button", {}, "Sign in");
  const submit = async (event) => {
    event.preventDefault();
    button.disabled = true;
    problem.textContent = "";
    try {
      await signIn(token.value.trim());
      then();
    } catch (error) {
      problem.textContent = error instanceof Refused ? `${error.message}.` : "The gateway does not answer; try again.";
      token.select();
    } finally {
      button.disabled = false;
    }
  };
  const element = h("section", { class: "card sign-in" },
    h("h1", {}, "Sign in"),
    h("p", { id: "sign-in-help", class: "notice" }, "This gateway requires a token. The operator has set it in ", h("code", {}, "admin.auth"), "."),
    h("form", { class: "filters", onsubmit: submit }, h("label", {}, "Token", token), button),
    problem);
  return { element, focus: () => token.focus() };
}
