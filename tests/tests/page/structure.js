// What is missing from a page's structure, in words; nothing, if all is there.
(() => {
    const wrong = [];
    const need = (what, is) => { if (!is) wrong.push(what); };
    const all = (selector) => [...document.querySelectorAll(selector)];
    need('language', document.documentElement.lang === 'en');
    need('title', document.title.includes('Arx'));
    need('one h1', all('h1').length === 1);
    need('one main', all('main').length === 1);
    need('a way past the head', all('a[href="#main"]').length === 1 && document.getElementById('main'));
    need('named navigation', all('nav').every((it) => it.ariaLabel));
    need('a place for what changes', all('[role=status]').length >= 1);
    all('section').forEach((it) => need('name of a section', document.getElementById(it.getAttribute('aria-labelledby'))));
    all('table').forEach((it) => {
        need('caption', it.caption?.textContent.trim());
        need('head', it.querySelectorAll('thead th[scope=col]').length > 0);
        need('roles', it.role === 'table' && [...it.rows].every((row) => row.getAttribute('role') === 'row'));
        for (const row of it.tBodies[0].rows) {
            need('as many cells as columns', row.cells.length <= it.tHead.rows[0].cells.length);
            for (const cell of row.cells) need('a cell that is named', cell.tagName === 'TH' || cell.dataset.label !== undefined);
        }
    });
    all('svg').forEach((it) => need('words for a drawing', it.getAttribute('role') === 'img' && it.getAttribute('aria-label')));
    all('progress, input').forEach((it) => need('label', it.labels.length > 0));
    all('.chip').forEach((it) => need('a word beside the colour', it.textContent.trim().length > 1));
    all('[style]').forEach(() => wrong.push('a style of its own'));
    const ids = all('[id]').map((it) => it.id);
    need('ids once', new Set(ids).size === ids.length);
    return wrong.join('; ');
})()
