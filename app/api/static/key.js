// The API key of this page, where the service asks for one: held in this variable alone, sent in a header alone.
let key = null;
let asking = null;

/** The headers that a request needs. */
export function keyHeaders() {
  return key ? { "X-API-Key": key } : {};
}

/** GET some JSON; where a key is wanted, ask whoever sits here for one, and try again. */
export async function getJson(path) {
  for (;;) {
    const response = await fetch(path, { headers: keyHeaders() });
    const answer = await response.json();
    if (response.status === 401) {
      key = await entered(answer.detail);
    } else if (response.status >= 400 && answer.code) {
      throw new Error(answer.detail);
    } else {
      return answer;
    }
  }
}

/** The key that is typed into a form, one for all requests that wait for it. */
function entered(reason) {
  asking ??= new Promise((resolve) => {
    const form = document.createElement("form");
    const label = form.appendChild(document.createElement("label"));
    label.textContent = `${reason} Key: `;
    const input = label.appendChild(document.createElement("input"));
    Object.assign(input, { type: "password", autocomplete: "off", required: true });
    form.appendChild(document.createElement("button")).textContent = "Use this key";
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      form.remove();
      asking = null;
      resolve(input.value.trim());
    });
    document.body.prepend(form);
    input.focus();
  });
  return asking;
}
