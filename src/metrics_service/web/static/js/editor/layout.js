// Where tiles stand: on a grid of 12 columns, none on another, none with room above it.
// Nothing here changes what it is given.

export const COLUMNS = 12;
export const TALLEST = 40;
const USUAL = { w: 6, h: 4 };

export function overlap(one, other) {
  return one.x < other.x + other.w && other.x < one.x + one.w
    && one.y < other.y + other.h && other.y < one.y + one.h;
}

const sharesColumns = (one, other) => one.x < other.x + other.w && other.x < one.x + one.w;
const byPlace = ([, one], [, other]) => one.y - other.y || one.x - other.x;

// The ids in the order in which the tiles are read.
export function inOrder(places) {
  return Object.entries(places).sort(byPlace).map(([id]) => id);
}

export function bottomOf(places) {
  return Math.max(0, ...Object.values(places).map(({ y, h }) => y + h));
}

// As the server places widgets: those without a place below the others, two in a row.
export function placesOf(ids, layout) {
  const places = {};
  for (const id of ids) if (layout[id]) places[id] = { ...layout[id] };
  const bottom = bottomOf(places);
  ids.filter((id) => !layout[id]).forEach((id, number) => {
    places[id] = { x: (number % 2) * USUAL.w, y: bottom + Math.floor(number / 2) * USUAL.h, ...USUAL };
  });
  return places;
}

// Makes room for one tile where it is, then lets all rise as far as they can.
export function settled(places, first = null) {
  const put = first === null ? [] : [[first, { ...places[first] }]];
  for (const [id, place] of Object.entries(places).sort(byPlace)) {
    if (id === first) continue;
    const moved = { ...place };
    let other;
    while ((other = put.find(([, one]) => overlap(one, moved)))) moved.y = other[1].y + other[1].h;
    put.push([id, moved]);
  }
  const risen = {};
  for (const [id, place] of put.sort(byPlace)) {
    const above = Object.values(risen).filter((one) => sharesColumns(one, place));
    risen[id] = { ...place, y: bottomOf(above) };
  }
  return risen;
}

// Puts a tile where it was dragged to: past another one when it is past its middle.
export function moved(places, id, x, y) {
  const from = places[id];
  const to = { ...from, x: Math.max(0, Math.min(x, COLUMNS - from.w)), y: Math.max(0, y) };
  const others = Object.entries(places).filter(([one, place]) => one !== id && sharesColumns(place, to));
  if (to.y > from.y) {
    const bottom = to.y + to.h;
    for (const [, one] of others) {
      if (one.y >= from.y + from.h && bottom > one.y + one.h / 2) to.y = Math.max(to.y, one.y + one.h);
    }
  } else if (to.y < from.y) {
    const passed = others.filter(([, one]) => one.y < to.y && one.y + one.h > to.y && to.y >= one.y + one.h / 2);
    for (const [, one] of passed) to.y = Math.max(to.y, one.y + one.h);
  }
  return settled({ ...places, [id]: to }, id);
}

export function resized(places, id, w, h) {
  const from = places[id];
  const to = {
    ...from,
    w: Math.max(1, Math.min(w, COLUMNS - from.x)),
    h: Math.max(1, Math.min(h, TALLEST)),
  };
  return settled({ ...places, [id]: to }, id);
}

// One step by the keyboard: a column to the side, or past the next tile above or below.
export function stepped(places, id, direction) {
  const from = places[id];
  if (direction === "left" || direction === "right") return sidestepped(places, id, direction === "left" ? -1 : 1);
  const near = Object.values(places).filter((one) => one !== from && sharesColumns(one, from));
  if (direction === "down") {
    const below = near.filter(({ y }) => y >= from.y + from.h).sort((one, other) => one.y - other.y)[0];
    return below ? settled({ ...places, [id]: { ...from, y: below.y + below.h } }, id) : places;
  }
  const above = near.filter(({ y, h }) => y + h <= from.y).sort((one, other) => other.y - one.y)[0];
  return above ? settled({ ...places, [id]: { ...from, y: above.y } }, id) : places;
}

function sidestepped(places, id, by) {
  const from = places[id];
  const to = { ...from, x: from.x + by };
  if (to.x < 0 || to.x + to.w > COLUMNS) return places;
  const met = Object.entries(places).filter(([one, place]) => one !== id && overlap(place, to));
  if (met.length === 1) {
    // Side by side: they change places.
    const [other, place] = met[0];
    const swapped = {
      ...places,
      [id]: { ...from, x: by > 0 ? place.x + place.w - from.w : place.x },
      [other]: { ...place, x: by > 0 ? from.x : from.x + from.w - place.w },
    };
    const isFree = (one) => Object.entries(swapped).every(([key, other_]) => key === one || !overlap(swapped[one], other_));
    if (swapped[id].x >= 0 && swapped[other].x >= 0 && isFree(id) && isFree(other)) return settled(swapped, id);
  }
  return settled({ ...places, [id]: to }, id);
}

// Where a new tile goes: beside the last ones if there is room, else below all.
export function freePlace(places, { w, h }) {
  const last = Math.max(0, ...Object.values(places).map(({ y }) => y));
  for (let y = last; ; y += 1) {
    for (let x = 0; x + w <= COLUMNS; x += 1) {
      const place = { x, y, w, h };
      if (!Object.values(places).some((one) => overlap(one, place))) return place;
    }
  }
}

export function inWords({ x, y, w, h }) {
  const columns = w === 1 ? `column ${x + 1}` : `columns ${x + 1} to ${x + w}`;
  return `${columns}, row ${y + 1}; ${w} wide, ${h} high`;
}
