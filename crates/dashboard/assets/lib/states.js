// The states of the ledger, in the order in which a request enters them, and whose time each is.

export const STATES = [
  ["read_request", "read request", "client"],
  ["authenticate", "authenticate", "gateway"],
  ["queue", "queue", "gateway"],
  ["guardrail_input", "guardrail, prompt", "security"],
  ["route", "route", "gateway"],
  ["connect", "connect", "network"],
  ["send", "send", "network"],
  ["await_first_byte", "await first byte", "engine"],
  ["await_first_token", "await first token", "engine"],
  ["await_token", "await tokens", "engine"],
  ["guardrail_output", "guardrail, answer", "security"],
  ["hold", "hold", "security"],
  ["client_write", "client write", "client"],
  ["gateway", "gateway", "gateway"],
  ["settle", "settle", "gateway"],
];

export const stateName = Object.fromEntries(STATES.map(([id, name]) => [id, name]));
export const stateOwner = Object.fromEntries(STATES.map(([id, , owner]) => [id, owner]));
export const stateColor = (id) => `var(--${id})`;

/** What each owner of time is called in a sentence. */
export const OWNERS = {
  client: "clients that read or send slowly",
  gateway: "the gateway",
  security: "guardrails",
  network: "the network",
  engine: "the engine",
};
