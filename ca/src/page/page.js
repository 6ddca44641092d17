// Keeps the page as it would be if it were loaded again. Without this script it is the same
// page, as of the moment at which it was loaded.
'use strict';

(() => {
  const word = document.getElementById('live');
  const SILENCE = 20000; // the authority says something every 5 s
  let heard = 0;
  let asking = false;
  let again = false;
  let source = null;

  // Only a change is written: screen readers tell it.
  function say(text) {
    if (word.textContent !== text) word.textContent = text;
    document.documentElement.classList.toggle('stale', text !== 'live');
  }

  // Makes `from` like `to` without putting others in the place of what is there: focus,
  // selection and scrolling stay where they are.
  function liken(from, to) {
    if (from.nodeName !== to.nodeName || (from.id || '') !== (to.id || '')) {
      from.replaceWith(document.importNode(to, true));
      return;
    }
    if (from.nodeType !== Node.ELEMENT_NODE) {
      if (from.nodeValue !== to.nodeValue) from.nodeValue = to.nodeValue;
      return;
    }
    for (const { name, value } of to.attributes) {
      if (from.getAttribute(name) !== value) from.setAttribute(name, value);
    }
    for (const { name } of [...from.attributes]) {
      if (!to.hasAttribute(name)) from.removeAttribute(name);
    }
    const [old, fresh] = [[...from.childNodes], [...to.childNodes]];
    fresh.forEach((child, place) => {
      if (place < old.length) liken(old[place], child);
      else from.append(document.importNode(child, true));
    });
    old.slice(fresh.length).forEach((child) => child.remove());
  }

  async function refresh() {
    if (asking) {
      again = true;
      return;
    }
    asking = true;
    try {
      const answer = await fetch(location.href, { cache: 'no-store', redirect: 'error' });
      if (!answer.headers.get('content-type').startsWith('text/html')) throw new Error('no page');
      const next = new DOMParser().parseFromString(await answer.text(), 'text/html');
      const [old, fresh] = [document, next].map((it) => [...it.querySelectorAll('[data-live]')]);
      if (old.length !== fresh.length) {
        location.reload();
        return;
      }
      document.title = next.title;
      old.forEach((element, place) => liken(element, fresh[place]));
      heard = Date.now();
      say('live');
    } catch {
      say('not live: the authority does not answer');
    }
    asking = false;
    if (again) {
      again = false;
      refresh();
    }
  }

  function follow() {
    source = new EventSource('/events');
    source.onmessage = () => {
      heard = Date.now();
      refresh();
    };
    source.onerror = () => {
      // There is no place for one more: ask now and then instead.
      if (source.readyState === EventSource.CLOSED) source = null;
      refresh();
    };
  }

  // A page that nobody looks at takes no place.
  document.addEventListener('visibilitychange', () => {
    if (document.hidden) {
      source?.close();
      source = null;
    } else if (!source) {
      follow();
    }
  });

  setInterval(() => {
    if (document.hidden) return;
    if (!source) {
      refresh();
    } else if (Date.now() - heard > SILENCE) {
      source.close();
      follow();
      refresh();
    }
  }, 5000);

  follow();
})();
