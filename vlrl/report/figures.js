"use strict";
// Draws the page's figures, each into the element that names it. Drawn again, a figure keeps what the reader zoomed into.
const figures = JSON.parse(document.getElementById("figures").textContent);
const SETTINGS = { responsive: true, displaylogo: false, displayModeBar: false };

function draw(place) {
  const figure = figures[place.dataset.figure];
  Plotly.react(place, figure.data, figure.layout, SETTINGS);
}

for (const place of document.querySelectorAll("[data-figure]")) draw(place);
