// Data of the gateway. A failed request is tried again by the page that needs it.

/** An error that the gateway answered with. */
export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export async function get(path, params = {}) {
  const query = new URLSearchParams(Object.entries(params).filter(([, value]) => value !== null && value !== undefined && value !== ""));
  const answer = await fetch(query.size ? `${path}?${query}` : path, { headers: { accept: "application/json" } });
  if (answer.ok) return answer.json();
  let message = `HTTP ${answer.status}`;
  try {
    message = (await answer.json()).error.message;
  } catch {
    // Not an error of the gateway.
  }
  throw new Refused(answer.status, message);
}

/** Data, or null where this gateway does not have it. */
export async function optional(path, params) {
  try {
    return await get(path, params);
  } catch (error) {
    if (error instanceof Refused && error.status === 404) return null;
    throw error;
  }
}
