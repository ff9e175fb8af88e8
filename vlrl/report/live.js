"use strict";
// Keeps the page of a running run up to date. What the reader looks at stays where it is: figures are drawn into the elements
// that they have, rollouts are added behind those that are shown, and the page is scrolled by as much as what is above has grown.
const EVERY_MS = 2000, HIDDEN_MS = 20000;
const health = document.getElementById("health"), sections = document.getElementById("sections"), menu = document.getElementById("menu");
const tags = {};
let seen = data.version, drawn = data.drawn, heardAt = new Date();

// The server's reply; null if it is the same as the last time.
async function ask(path, name) {
  const reply = await fetch(path, { headers: tags[name] ? { "If-None-Match": tags[name] } : {}, cache: "no-store" });
  if (reply.status === 304) return null;
  if (!reply.ok) throw new Error(await reply.text());
  if (name) tags[name] = reply.headers.get("ETag");
  return reply.json();
}

function row(kind, cells) { return element("tr", {}, ...cells.map(text => element(kind, {}, text))); }

function showHealth(runs) {
  const open = new Set([...health.querySelectorAll("details[open]")].map(each => each.dataset.run));
  health.replaceChildren(...runs.map(run => {
    const kind = run.is_well === null ? "unknown" : run.is_well ? "well" : "unwell";
    const made = element("section", { class: kind }, element("p", {}, runs.length > 1 ? `${run.name}: ${run.sentence}` : run.sentence));
    if (run.ranks.length) {
      const ranks = element("details", { "data-run": run.name }, element("summary", {}, `What each rank does (${run.ranks.filter(cells => cells[0]).length})`));
      ranks.append(element("div", { class: "wide" }, element("table", {}, row("th", ["rank", "host", "process", "does", "for", "last heard from"]),
        ...run.ranks.map(cells => row("td", cells)))));
      ranks.open = open.has(run.name);
      made.append(ranks);
    }
    return made;
  }));
  document.title = document.title.replace(/^(! )?/, runs.some(run => run.is_well === false) ? "! " : "");
}

const watcher = new IntersectionObserver(entries => entries.forEach(entry => {
  if (!entry.isIntersecting) return;
  watcher.unobserve(entry.target);
  draw(entry.target);
}), { rootMargin: "200px" });

// Makes a change, and scrolls so that the section at the top of the window stays there.
function inPlace(change) {
  const top = [...document.querySelectorAll("main section[id]")].find(each => each.getBoundingClientRect().bottom > 100);
  const before = top && scrollY > 0 ? top.getBoundingClientRect().top : null;
  change();
  const now = before === null ? null : document.getElementById(top.id);
  if (now) scrollBy({ top: now.getBoundingClientRect().top - before, behavior: "instant" });
}

function showSections(found) {
  const places = new Map([...sections.querySelectorAll("[data-figure]")].map(each => [each.dataset.figure, each]));
  Object.assign(figures, found.figures);
  inPlace(() => {
    sections.innerHTML = found.sections;
    menu.innerHTML = found.menu;
    for (const fresh of sections.querySelectorAll("[data-figure]")) {
      const old = places.get(fresh.dataset.figure);
      if (!old) { draw(fresh); continue; }
      fresh.replaceWith(old);
      watcher.observe(old);  // drawn once it is in sight
    }
  });
}

async function addRollouts(run, place) {
  const from = Math.max(0, run.lasting - 1);  // the last of them may have been incomplete
  const found = await ask(`rollouts?run=${place}&life=${run.life}&from=${from}`);
  const known = new Map(run.groups.map(group => [identity(group), group]));
  const same = group => { const old = known.get(identity(group)); return old && old.rollouts.length === group.rollouts.length ? old : group; };
  run.groups = [...run.groups.slice(0, found.from), ...found.groups.map(same)];
  run.life = found.life; run.lasting = found.lasting; run.of = found.of;
}

async function poll() {
  try {
    const now = await ask("now", "now");
    heardAt = new Date();
    if (now) {
      if (now.page !== data.page) return location.reload();
      inPlace(() => showHealth(now.runs));
      if (seen !== now.version) {
        await Promise.all(data.runs.map(addRollouts));
        seen = now.version;
        refresh();
      }
    }
    if (drawn !== seen) {
      const found = await ask("figures", "figures");
      if (found) { showSections(found); drawn = found.version; }
    }
  } catch (error) {
    const sentence = `No reply from vlrl report since ${heardAt.toLocaleTimeString()}; the page shows the run as it was then.`;
    inPlace(() => health.replaceChildren(element("section", { class: "unknown" }, element("p", {}, sentence))));
    delete tags.now;
  }
  setTimeout(poll, document.hidden ? HIDDEN_MS : EVERY_MS);
}

poll();
