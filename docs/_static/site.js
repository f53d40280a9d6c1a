// Panels are stored once each and fetched when they come near the window; where scripts are off, the picture stays.
const wake = box => {
  fetch(box.dataset.panel).then(answer => answer.ok ? answer.text() : Promise.reject(answer.status)).then(text => {
    box.innerHTML = text;
    box.querySelectorAll('script:not([type])').forEach(old => {  // a script that arrives as text does not run by itself
      const made = document.createElement('script');
      made.textContent = old.textContent;
      old.replaceWith(made);
    });
    box.dataset.state = 'alive';
  }).catch(error => { box.dataset.state = 'still'; console.info('The panel stays a picture:', error); });
};
const near = new IntersectionObserver(entries => entries.forEach(({isIntersecting, target}) => {
  if (isIntersecting) { near.unobserve(target); wake(target); }
}), {rootMargin: '600px'});
document.querySelectorAll('.ntkbook-panel[data-panel]').forEach(box => near.observe(box));

// The table of claims: a word, a chapter, a verdict.
document.querySelectorAll('.ntkbook-filter').forEach(form => {
  const rows = [...document.querySelectorAll('table.ntkbook-claims tbody tr')];
  const count = form.querySelector('output');
  const show = () => {
    const {word, chapter, verdict} = Object.fromEntries(new FormData(form));
    let shown = 0;
    rows.forEach(row => {
      row.hidden = !(row.textContent.toLowerCase().includes(word.toLowerCase())
        && (!chapter || row.dataset.chapter === chapter) && (!verdict || row.dataset.verdict === verdict));
      shown += !row.hidden;
    });
    count.textContent = `${shown} of ${rows.length} claims`;
  };
  form.addEventListener('input', show);
  form.addEventListener('submit', event => event.preventDefault());
  show();
});

// Terms of the glossary: the first of each on a page of the book is a link that shows its meaning.
const root = document.documentElement.dataset.content_root || './';
const body = location.pathname.includes('/book/') ? document.querySelector('article') : null;
if (body) fetch(`${root}_static/glossary.json`).then(answer => answer.json()).then(words => {
  const tip = document.createElement('div');
  tip.className = 'ntkbook-tip'; tip.id = 'ntkbook-tip'; tip.setAttribute('role', 'tooltip'); tip.hidden = true;
  document.body.append(tip);
  let place = () => {};
  const hide = () => { tip.hidden = true; place = () => {}; };
  addEventListener('scroll', () => place(), {passive: true});
  addEventListener('keydown', event => { if (event.key === 'Escape') hide(); });
  for (const [term, meaning] of Object.entries(words)) {
    const word = term.replace(/[^\w\s-]/g, '.');
    const pattern = new RegExp(`(?<![\\w-])${word}s?(?![\\w-])`, term === term.toUpperCase() ? '' : 'i');
    for (const paragraph of body.querySelectorAll('p, li')) {
      const walker = document.createTreeWalker(paragraph, NodeFilter.SHOW_TEXT, node =>
        node.parentElement.closest('a, code, .math, mjx-container, script, .ntkbook-panel') ? 2 : 1);
      let node, found = null;
      while (!found && (node = walker.nextNode())) found = pattern.exec(node.data);
      if (!found) continue;
      const rest = node.splitText(found.index), link = document.createElement('a');
      rest.data = rest.data.slice(found[0].length);
      link.className = 'ntkbook-term'; link.textContent = found[0];
      link.href = `${root}glossary.html`; link.setAttribute('aria-describedby', 'ntkbook-tip');
      const show = () => {
        tip.textContent = meaning; tip.hidden = false; place = show;
        const at = link.getBoundingClientRect(), width = tip.offsetWidth;
        tip.style.left = `${Math.max(8, Math.min(at.left, document.documentElement.clientWidth - width - 8))}px`;
        const below = at.bottom + 6, above = at.top - tip.offsetHeight - 6;
        tip.style.top = `${below + tip.offsetHeight > innerHeight ? above : below}px`;
      };
      for (const name of ['mouseenter', 'focus']) link.addEventListener(name, show);
      for (const name of ['mouseleave', 'blur']) link.addEventListener(name, hide);
      rest.before(link);
      break;
    }
  }
});
