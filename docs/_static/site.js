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
