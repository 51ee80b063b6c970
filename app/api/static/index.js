import { getJson, keyHeaders } from "./key.js";

// Shows what the public API says of itself; labels and reasons are inserted as text, never as markup.
function examples(task, url) {
  const key = Object.keys(keyHeaders()).length ? '-H "Authorization: Bearer $KEY" ' : "";
  const body = key + (task.takes_picture ? "--data-binary @picture.jpg" : "-X POST");
  const drawn = task.answers.includes("image/png");
  const drawing = drawn ? [`curl ${body} -H 'Accept: image/png' ${url} -o ${task.task}.png`] : [];
  return [`# ${task.summary}`, `curl ${body} ${url}`, ...drawing];
}

function row(model) {
  const cells = [model.name, model.version ?? "", model.task ?? "", model.state, model.reason ?? model.description ?? ""];
  const element = document.createElement("tr");
  element.className = model.state;
  for (const text of cells) {
    element.appendChild(document.createElement("td")).textContent = text;
  }
  return element;
}

const state = document.getElementById("state");
try {
  const [{ models }, { tasks }, readiness] = await Promise.all(["models", "tasks", "readyz"].map(getJson));
  document.getElementById("models").replaceChildren(...models.map(row));
  document.querySelector("table").hidden = false;
  const base = new URL(".", document.baseURI).href;
  document.getElementById("examples").textContent = tasks
    .filter((task) => task.default_model)
    .flatMap((task) => examples(task, base + task.path.slice(1)))
    .join("\n");
  const broken = Object.keys(readiness.failed).length;
  state.textContent = readiness.ready ? `Ready${broken ? `, ${broken} broken` : ""}.` : "Not ready yet.";
} catch (error) {
  state.textContent = `The service did not answer: ${error.message}`;
}
