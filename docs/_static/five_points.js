// Chapter 00 without a kernel: the law of infinitely wide networks on five points that can be dragged, computed here.
// One hidden layer of erf units; times and scales are those of the panel (data attributes), formulas those of chapters
// 03 (kernels) and 06 (mean and variance).
document.querySelectorAll('.ntkbook-five-points').forEach(box => {
  const {x, y, times, scales, range_x, range_y} = JSON.parse(box.dataset.start);
  const [W, b, V, c] = scales.map(s => s * s);
  const grid = Array.from({length: 81}, (_, i) => -Math.PI + i * Math.PI / 40);

  // (NNGP, NTK) of two numbers
  const kernels = (u, v) => {
    const k = W * u * v + b, p = 1 + 2 * (W * u * u + b), q = 1 + 2 * (W * v * v + b);
    const T = 2 / Math.PI * Math.asin(2 * k / Math.sqrt(p * q)), slope = 4 / Math.PI / Math.sqrt(p * q - 4 * k * k);
    return [V * T + c, V * (T + slope * k) + c];
  };
  const table = (rows, columns, which) => rows.map(u => columns.map(v => kernels(u, v)[which]));
  const product = (A, B) => A.map(row => B[0].map((_, j) => row.reduce((sum, a, k) => sum + a * B[k][j], 0)));
  const transposed = A => A[0].map((_, j) => A.map(row => row[j]));

  // eigenvalues and orthonormal eigenvectors (columns) of a small symmetric matrix, by Jacobi rotations
  const eigen = matrix => {
    const A = matrix.map(row => [...row]), n = A.length;
    const Q = A.map((_, i) => A.map((_, j) => Number(i === j)));
    for (let sweep = 0; sweep < 30; sweep++) for (let p = 0; p < n; p++) for (let q = p + 1; q < n; q++) {
      if (Math.abs(A[p][q]) < 1e-300) continue;
      const theta = (A[q][q] - A[p][p]) / (2 * A[p][q]);
      const t = (theta < 0 ? -1 : 1) / (Math.abs(theta) + Math.hypot(theta, 1)), cos = 1 / Math.hypot(t, 1), sin = t * cos;
      for (let k = 0; k < n; k++) [A[k][p], A[k][q]] = [cos * A[k][p] - sin * A[k][q], sin * A[k][p] + cos * A[k][q]];
      for (let k = 0; k < n; k++) [A[p][k], A[q][k]] = [cos * A[p][k] - sin * A[q][k], sin * A[p][k] + cos * A[q][k]];
      for (let k = 0; k < n; k++) [Q[k][p], Q[k][q]] = [cos * Q[k][p] - sin * Q[k][q], sin * Q[k][p] + cos * Q[k][q]];
    }
    return [A.map((row, i) => row[i]), Q];
  };

  // mean and standard deviation on the grid at time t; the squared error counts 1/2, summed over the points
  const law = t => {
    const [values, Q] = eigen(table(x, x, 1));
    const pulled = values.map(s => s * t < 1e-9 ? t : -Math.expm1(-s * t) / s);
    const gain = product(Q.map(row => row.map((entry, j) => entry * pulled[j])), transposed(Q));
    const A = product(table(grid, x, 1), gain), K = table(x, x, 0), across = table(grid, x, 0), AK = product(A, K);
    const mean = A.map(row => row.reduce((sum, a, i) => sum + a * y[i], 0));
    const sd = grid.map((u, i) => Math.sqrt(Math.max(0, kernels(u, u)[0]
      + A[i].reduce((sum, a, j) => sum + a * (AK[i][j] - 2 * across[i][j]), 0))));
    return {mean, sd};
  };

  const made = (name, attributes, parent) => {
    const element = document.createElementNS('http://www.w3.org/2000/svg', name);
    Object.entries(attributes).forEach(([key, value]) => element.setAttribute(key, value));
    parent.append(element);
    return element;
  };
  const width = 720, height = 320, left = 44, top = 10, inner = [width - left - 10, height - top - 40], high = 2.6;
  const to = (u, v) => [left + (u + Math.PI) / (2 * Math.PI) * inner[0], top + (high - v) / (2 * high) * inner[1]];
  const path = points => 'M' + points.map(([u, v]) => to(u, v).map(z => z.toFixed(1)).join(' ')).join('L');
  const svg = made('svg', {viewBox: `0 0 ${width} ${height}`, role: 'group', 'aria-label': 'Five points that can be moved'},
    box);
  svg.style.cssText = 'width:100%;max-width:720px;display:block;font:12px sans-serif';
  made('clipPath', {id: 'ntkbook-inside'}, svg).append(
    made('rect', {x: left, y: top, width: inner[0], height: inner[1]}, svg));
  const inside = made('g', {'clip-path': 'url(#ntkbook-inside)'}, svg);
  const band = made('path', {fill: '#D55E00', 'fill-opacity': 0.25}, inside);
  made('path', {d: path(grid.map(u => [u, Math.sin(u)])), fill: 'none', stroke: '#888', 'stroke-dasharray': '2 4'}, inside);
  const curve = made('path', {fill: 'none', stroke: '#D55E00', 'stroke-width': 2.5}, inside);
  made('path', {d: `M${left} ${top}V${top + inner[1]}H${left + inner[0]}`, fill: 'none', stroke: '#777'}, svg);
  for (const v of [-2, -1, 0, 1, 2]) {
    const [, at] = to(0, v);
    made('text', {x: left - 8, y: at + 4, 'text-anchor': 'end', fill: '#777'}, svg).textContent = String(v).replace('-', '−');
  }
  ['−π', '−π/2', '0', 'π/2', 'π'].forEach((word, i) => {
    const [at] = to((i - 2) * Math.PI / 2, 0);
    made('text', {x: at, y: top + inner[1] + 16, 'text-anchor': 'middle', fill: '#777', class: 'under'}, svg).textContent = word;
  });
  const under = made('text', {x: left + inner[0] / 2, y: height - 6, 'text-anchor': 'middle', fill: '#777', class: 'name'}, svg);
  under.textContent = 'input x';
  const limited = (value, [low, up]) => Math.min(up, Math.max(low, Math.round(value * 100) / 100));

  const dots = x.map((_, i) => {
    const dot = made('circle', {r: 9, fill: '#777', stroke: '#fff', 'stroke-width': 1.5, tabindex: 0, role: 'slider',
      'aria-valuemin': range_y[0], 'aria-valuemax': range_y[1]}, svg);
    dot.style.cssText = 'cursor:grab;touch-action:none';  // beside the points a finger scrolls the page
    const move = (u, v) => { x[i] = limited(u, range_x); y[i] = limited(v, range_y); draw(); };
    dot.addEventListener('pointerdown', event => { dot.setPointerCapture(event.pointerId); dot.focus(); event.preventDefault(); });
    dot.addEventListener('pointermove', event => {
      if (!dot.hasPointerCapture(event.pointerId)) return;
      const place = svg.getBoundingClientRect(), scale = width / place.width;
      const across = (event.clientX - place.left) * scale, down = (event.clientY - place.top) * scale;
      move((across - left) / inner[0] * 2 * Math.PI - Math.PI, high - (down - top) / inner[1] * 2 * high);
    });
    dot.addEventListener('keydown', event => {
      const step = {ArrowLeft: [-0.1, 0], ArrowRight: [0.1, 0], ArrowUp: [0, 0.1], ArrowDown: [0, -0.1]}[event.key];
      if (step) { event.preventDefault(); move(x[i] + step[0], y[i] + step[1]); }
    });
    return dot;
  });

  const label = document.createElement('label'), input = document.createElement('input'), value = document.createElement('output');
  label.style.cssText = 'display:flex;flex-wrap:wrap;align-items:center;gap:0 8px;min-height:32px';
  Object.assign(input, {type: 'range', min: 0, max: times.length - 1, value: times.length - 1});
  input.setAttribute('aria-label', 'training time t');
  input.style.cssText = 'accent-color:#0072B2;flex:0 1 220px;width:220px;min-width:0;height:32px';
  const both = document.createElement('span');  // a number never parts from its slider
  both.style.cssText = 'display:flex;align-items:center;gap:8px;min-width:0';
  both.append(input, value);
  label.append('training time t', both);
  svg.before(label);
  const reading = document.createElement('div');
  reading.className = 'ntkbook-five-reading'; reading.setAttribute('role', 'status'); reading.setAttribute('aria-live', 'polite');
  box.append(reading);
  input.addEventListener('input', () => draw());

  function draw() {
    const t = times[Number(input.value)], {mean, sd} = law(t);
    const edge = sign => grid.map((u, i) => [u, mean[i] + sign * 2 * sd[i]]);
    band.setAttribute('d', path([...edge(1), ...edge(-1).reverse()]) + 'Z');
    curve.setAttribute('d', path(grid.map((u, i) => [u, mean[i]])));
    dots.forEach((dot, i) => {
      const [cx, cy] = to(x[i], y[i]);
      dot.setAttribute('cx', cx); dot.setAttribute('cy', cy);
      dot.setAttribute('aria-label', `point ${i + 1}, at x = ${x[i].toFixed(1)}`);
      dot.setAttribute('aria-valuenow', y[i]); dot.setAttribute('aria-valuetext', `y = ${y[i].toFixed(1)}`);
    });
    value.textContent = String(Number(t.toPrecision(3)));
    input.setAttribute('aria-valuetext', value.textContent);
    reading.textContent = `Infinitely wide networks at t = ${value.textContent}: at x = 0 their mean is `
      + `${mean[40].toFixed(2)}, give or take ${sd[40].toFixed(2)}.`;
    box.law = {x: [...x], y: [...y], t, mean, sd};
  }
  draw();
});
