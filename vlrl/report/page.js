"use strict";
// The rollout browser: filters groups and shows ten per page. It inserts everything as text, so a rollout cannot add markup.
// A page on a disk has the pictures in it; a served one gets each from the server once it is shown.
const data = JSON.parse(document.getElementById("data").textContent);
const form = document.getElementById("filters"), list = document.getElementById("groups");
const PER_PAGE = 10;
let page = 0, found = [], onPage = [];

function element(name, attributes, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function option(value, text) { return element("option", { value }, text); }

function number(value) { return value === null || value === undefined || typeof value === "string" ? "–" : (+value.toFixed(3)).toString(); }

function matches(group, wanted) {
  if (wanted.task && group.task !== wanted.task) return false;
  if (wanted.from && group.step < +wanted.from) return false;
  if (wanted.to && group.step > +wanted.to) return false;
  const scored = group.rollouts.filter(each => each.status === "ok").map(each => each.reward);
  if (wanted.reward === "mixed" && !(Math.max(...scored) > Math.min(...scored))) return false;
  if (wanted.reward === "all" && !(scored.length && scored.every(reward => reward > 0.5))) return false;
  if (wanted.reward === "none" && !(scored.length && scored.every(reward => reward <= 0.5))) return false;
  if (wanted.reward === "failed" && scored.length === group.rollouts.length) return false;
  if (wanted.traced && !group.rollouts.some(each => each.tokens)) return false;
  const text = (wanted.text || "").toLowerCase();
  return !text || group.prompt.toLowerCase().includes(text) || group.rollouts.some(each => each.response.toLowerCase().includes(text));
}

// Draws boxes over the picture: the row's own in green; the responses', in thousandths or in pixels of the seen picture, in blue.
function boxes(group) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 1000 1000");
  svg.setAttribute("preserveAspectRatio", "none");
  const draw = ([left, top, right, bottom], colour) => {
    const rect = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    const values = { x: left, y: top, width: right - left, height: bottom - top, fill: "none", stroke: colour, "stroke-width": 2, "vector-effect": "non-scaling-stroke" };
    for (const [key, value] of Object.entries(values)) rect.setAttribute(key, value);
    svg.append(rect);
  };
  const { width, height, box, boxes: several } = group.boxes;
  for (const each of several || (box ? [box] : [])) draw(each.map((x, place) => 1000 * x / (place % 2 ? height : width)), "#16794a");
  const numbers = "\\s*(-?[\\d.]+)\\s*,\\s*(-?[\\d.]+)";
  const [across, down] = group.seen ? group.seen[0] : [1000, 1000];
  const inThousandths = found => found.slice(1).map((x, place) => 1000 * Number(x) / (place % 2 ? down : across));
  for (const each of group.rollouts) {
    for (const found of each.response.matchAll(new RegExp('"bbox_2d"\\s*:\\s*\\[' + numbers + "," + numbers + "\\s*\\]", "g"))) draw(inThousandths(found), "#2f5d8a");
    for (const found of each.response.matchAll(new RegExp('"point_2d"\\s*:\\s*\\[' + numbers + "\\s*\\]", "g"))) {
      const [x, y] = inThousandths(found);
      draw([x - 8, y - 8, x + 8, y + 8], "#2f5d8a");
    }
  }
  return svg;
}

// A token's background is blue if its ratio is above 1 and red if below, deeper the further from 1. It is underlined with dots if
// its gate weight is below ½.
function tokens(traced, count) {
  const pre = element("pre");
  traced.pieces.forEach((piece, place) => {
    const ratio = traced.ratios[place], weight = traced.weights[place];
    const depth = Math.min(0.65, 2 * Math.abs(Math.log(ratio)));
    const token = element("span", { class: "token", title: `ratio ${ratio}, gate weight ${weight}` }, piece);
    token.style.background = ratio >= 1 ? `rgba(47, 93, 138, ${depth})` : `rgba(179, 56, 44, ${depth})`;
    if (weight < 0.5) token.style.borderBottom = "2px dotted";
    pre.append(token);
  });
  if (traced.pieces.length < count) pre.append(" […]");
  return pre;
}

function answer(rollout) {
  const failed = rollout.status !== "ok";
  const kind = failed ? "failed" : rollout.reward > 0.5 ? "good" : "bad";
  const parts = Object.entries(rollout.parts || {}).map(([name, value]) => `${name} ${number(value)}`).join(", ");
  const facts = [failed ? rollout.status : `reward ${number(rollout.reward)}`, `advantage ${number(rollout.advantage)}`, `${rollout.num_tokens} tokens`];
  if (rollout.finish_reason === "length") facts.push("cut off");
  if (parts) facts.push(parts);
  const made = element("article", { class: `answer ${kind}` }, element("p", {}, facts.join(" · ")));
  if (rollout.detail) made.append(element("p", {}, rollout.detail));
  made.append(rollout.tokens ? tokens(rollout.tokens, rollout.num_tokens) : element("pre", {}, rollout.response));
  return made;
}

function shown(group, run) {
  const traced = group.rollouts.some(each => each.tokens);
  const head = element("header", {}, element("span", {}, `step ${group.step}`), element("span", {}, group.task), element("span", {}, `prompt ${group.slot}`));
  if (group.answer) head.append(element("span", {}, `answer ${group.answer}`));
  if (traced) head.append(element("span", {}, "ratio below 1 ", element("span", { class: "key" }), " above 1"));
  const prompt = element("div", { class: "prompt" });
  group.images.forEach(place => {
    const picture = run.images ? run.images[place] : `picture?run=${form.run.value}&place=${place}`;
    if (!picture) return prompt.append(element("span", {}, "[picture not kept]"));
    prompt.append(element("div", { class: "picture" }, element("img", { src: picture, alt: "picture of the prompt" }), boxes(group)));
  });
  prompt.append(element("pre", {}, group.prompt));
  return element("div", { class: "group" }, head, prompt, element("div", { class: "answers" }, ...group.rollouts.map(answer)));
}

function render() {
  const last = Math.max(0, Math.ceil(found.length / PER_PAGE) - 1);
  page = Math.min(Math.max(0, page), last);
  onPage = found.slice(page * PER_PAGE, (page + 1) * PER_PAGE);
  list.replaceChildren(...onPage.map(group => shown(group, data.runs[form.run.value])));
  count();
}

function count() {
  const run = data.runs[form.run.value];
  const last = Math.max(0, Math.ceil(found.length / PER_PAGE) - 1);
  const number = found.reduce((sum, group) => sum + group.rollouts.length, 0), shownHere = run.groups.reduce((sum, group) => sum + group.rollouts.length, 0);
  document.getElementById("found").textContent = `${found.length} groups, ${number} rollouts found, of ${shownHere} here` + (shownHere < run.of ? ` and ${run.of} in the run` : "");
  document.getElementById("page").textContent = `page ${page + 1} of ${last + 1}`;
  for (const button of document.querySelectorAll("[data-move]")) button.disabled = button.dataset.move < 0 ? page === 0 : page === last;
}

function identity(group) { return `${group.step}/${group.slot}/${group.round}`; }

// Adds what the run has written since. The groups on the page stay as they are, also if they are no longer among the run's; a page
// that is not full gets more.
function refresh() {
  const wanted = Object.fromEntries(new FormData(form));
  found = data.runs[form.run.value].groups.filter(group => matches(group, wanted));
  if (!onPage.length) return render();
  const first = found.findIndex(group => identity(group) === identity(onPage[0]));
  if (first >= 0) page = Math.floor(first / PER_PAGE);
  const now = found.slice(page * PER_PAGE, (page + 1) * PER_PAGE);
  if (onPage.every((group, place) => group === now[place])) {
    list.append(...now.slice(onPage.length).map(group => shown(group, data.runs[form.run.value])));
    onPage = now;
  }
  count();
}

// The filters are part of the address, so that a view can be bookmarked or sent to someone who has the file.
function keep(wanted) {
  const set = new URLSearchParams(Object.entries(wanted).filter(([name, value]) => value && !(name === "run" && value === "0")));
  history.replaceState(null, "", set.size ? `#rollouts?${set}` : location.hash.split("?")[0] || "#");
}

function recall() {
  for (const [name, value] of new URLSearchParams(location.hash.split("?")[1] || "")) {
    const field = form.elements[name];
    if (field && field.type === "checkbox") field.checked = value === "on";
    else if (field) field.value = value;
  }
  if (location.hash.includes("?")) document.getElementById("rollouts").scrollIntoView();
}

function filter() {
  const wanted = Object.fromEntries(new FormData(form));
  keep(wanted);
  found = data.runs[form.run.value].groups.filter(group => matches(group, wanted));
  page = 0;
  render();
}

function begin() {
  data.runs.forEach((run, place) => form.run.append(option(place, run.name)));
  const tasks = [...new Set(data.runs.flatMap(run => run.tasks))];
  form.task.append(option("", "any"), ...tasks.map(task => option(task, task)));
  recall();
  form.addEventListener("input", filter);
  form.addEventListener("submit", event => event.preventDefault());
  for (const button of document.querySelectorAll("[data-move]")) button.addEventListener("click", () => { page += +button.dataset.move; render(); });
  filter();
}

if (data.runs.length) begin();
