// Data of the gateway. A failed request is tried again by the page that needs it.

/** An error that the gateway answered with. */
export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export const get = (path, params = {}, fields = {}) => ask("GET", path, params, { accept: "application/json", ...fields });

/** Changes something. Pages of other origins cannot send the header. */
export const change = (path, params) => ask("POST", path, params, { accept: "application/json", "x-llm-lens-operator": "dashboard" });

async function ask(method, path, params, headers) {
  const query = new URLSearchParams(Object.entries(params).filter(([, value]) => value !== null && value !== undefined && value !== ""));
  const answer = await fetch(query.size ? `${path}?${query}` : path, { method, headers });
  if (answer.ok) return answer.json();
  let message = `HTTP ${answer.status}`;
  try {
    message = (await answer.json()).error.message;
  } catch {
    // Not an error of the gateway.
  }
  throw new Refused(answer.status, message);
}

/** Stored data, or null where nothing is stored, or why it cannot be read: pages show what else there is. */
export async function stored(path, params) {
  try {
    return { data: await get(path, params), problem: null };
  } catch (error) {
    if (!(error instanceof Refused) || ![404, 503].includes(error.status)) throw error;
    return { data: null, problem: error.status === 503 ? error.message : null };
  }
}
