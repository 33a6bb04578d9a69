// What htmx does not do: ages that grow, streams, and the editor. What comes from the server is put in as text; only
// parts of pages, which it has escaped, as HTML.
"use strict";
(() => {
  const one = (selector, root = document) => root.querySelector(selector);

  // --- ages, and a server that does not answer ---
  const age = one("[data-age]");
  let seen = age && age.dataset.age !== "" ? performance.now() - 1000 * Number(age.dataset.age) : null;
  const shownAge = (seconds) =>
    seconds < 120 ? `${Math.floor(seconds)} s` : seconds < 7200 ? `${Math.floor(seconds / 60)} min` : `${Math.floor(seconds / 3600)} h`;
  const tick = () => {
    if (age && seen !== null) age.textContent = `${shownAge((performance.now() - seen) / 1000)} ago`;
  };
  setInterval(tick, 1000);
  const offline = (is) => {
    one("#offline").hidden = !is;
  };
  document.addEventListener("htmx:sendError", () => offline(true));
  // What a proxy says instead is no part of the first page, which would no longer ask.
  document.addEventListener("htmx:beforeSwap", (event) => {
    if (event.detail.target.id !== "fleet" || event.detail.xhr.status < 400) return;
    event.detail.shouldSwap = false;
    offline(true);
  });
  const again = () => setTimeout(() => fetch(location.href).then((page) => (page.ok ? location.reload() : again()), again), 5000);
  const followed = (address) => {
    const source = new EventSource(address);
    source.onopen = () => offline(false);
    source.onerror = () => {
      offline(true);
      if (source.readyState === EventSource.CLOSED) again(); // after another answer than 200, a browser does not ask again
    };
    return source;
  };
  document.addEventListener("htmx:afterRequest", (event) => {
    const { xhr } = event.detail;
    if (!xhr || !xhr.status) return;
    if (xhr.status >= 400) return;
    offline(false);
    const given = event.detail.elt.id === "fleet" && xhr.getResponseHeader("Age");
    if (given) {
      seen = performance.now() - 1000 * Number(given);
      tick();
    }
  });

  // --- a job ---
  const job = one("[data-job]");
  if (job) {
    const source = followed(job.dataset.job);
    source.addEventListener("progress", (event) => {
      one("[data-progress]", job).innerHTML = JSON.parse(event.data);
    });
    source.addEventListener("end", () => {
      source.close();
      location.reload();
    });
  }

  // --- a log ---
  const log = one("[data-log]");
  if (log) {
    const source = followed(log.dataset.log);
    source.addEventListener("open", () => log.replaceChildren());
    source.addEventListener("line", (event) => {
      const follows = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
      log.append(`${JSON.parse(event.data)}\n`);
      while (log.childNodes.length > 5000) log.firstChild.remove();
      if (follows) log.scrollTop = log.scrollHeight;
    });
    source.addEventListener("end", (event) => {
      source.close();
      one("[data-log-said]").textContent = JSON.parse(event.data);
    });
  }

  // --- the playground ---
  const form = one("[data-stream]");
  if (form) {
    const parts = { text: one("[data-answer]"), reasoning: one("[data-thoughts]"), end: one("[data-said]"), problem: one("[data-said]") };
    const [ask, stop] = [one("button", form), one("[data-stop]", form)];
    const take = (line) => {
      for (const [kind, words] of Object.entries(JSON.parse(line))) if (parts[kind]) parts[kind].append(words);
    };
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      const ending = new AbortController();
      for (const part of Object.values(parts)) part.textContent = "";
      stop.onclick = () => ending.abort();
      [ask.disabled, stop.hidden] = [true, false];
      parts.end.textContent = "Asking…";
      try {
        const answer = await fetch(form.action, { method: "POST", body: new URLSearchParams(new FormData(form)), signal: ending.signal });
        if (answer.status === 401) return location.reload(); // the session is over
        const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
        let rest = "";
        for (;;) {
          const { value, done } = await reader.read();
          if (done) break;
          parts.end.textContent = "";
          const lines = (rest + value).split("\n");
          rest = lines.pop();
          lines.forEach(take);
        }
      } catch (error) {
        parts.end.textContent = ending.signal.aborted ? "Stopped." : "magi serve does not answer: ask again.";
      } finally {
        [ask.disabled, stop.hidden] = [false, true];
      }
    });
    one("#question").addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
    });
  }

  // --- the editor ---
  const text = one("[data-editor]");
  if (text) {
    const gutter = one("[data-gutter]");
    const find = one("[data-find]");
    const preview = one("#preview");
    let previewed = text.value;
    let asked = previewed;
    const compare = () => preview.classList.toggle("old", text.value !== previewed);
    const before = "unsaved" in text.dataset ? null : text.defaultValue;
    let leaving = false;
    const word = () => /[\w.-]*$/.exec(text.value.slice(0, text.selectionStart))[0];
    const number = () => {
      const wrong = new Set([...document.querySelectorAll("#problems [data-line]")].map((item) => Number(item.dataset.line)));
      const count = text.value.split("\n").length;
      gutter.replaceChildren(
        ...Array.from({ length: count }, (_item, index) => {
          const line = document.createElement("span");
          line.textContent = index + 1;
          line.classList.toggle("wrong", wrong.has(index + 1));
          return line;
        }),
      );
      text.rows = count + 1;
    };
    const narrow = (wanted) => {
      for (const item of document.querySelectorAll("[data-words] li")) {
        const name = one("button", item).textContent;
        item.hidden = wanted ? !name.includes(wanted.toLowerCase()) : "rare" in item.dataset;
      }
    };
    const write = (words, replaced) => {
      text.focus();
      text.setRangeText(words, text.selectionStart - replaced, text.selectionEnd, "end");
      text.dispatchEvent(new Event("input", { bubbles: true }));
    };
    number();
    text.addEventListener("input", () => {
      number();
      compare();
      narrow(word().length > 1 ? word() : "");
    });
    find.addEventListener("input", () => narrow(find.value));
    text.addEventListener("keydown", (event) => {
      if (event.key !== " " || !event.ctrlKey) return;
      event.preventDefault();
      const first = word() && one("[data-words] li:not([hidden]) button");
      if (first) write(first.dataset.insert, word().length);
    });
    document.addEventListener("click", (event) => {
      const chosen = event.target.closest("[data-insert], [data-line]");
      if (!chosen) return;
      if (chosen.dataset.insert) return write(chosen.dataset.insert, 0);
      const lines = text.value.split("\n").slice(0, Number(chosen.dataset.line) - 1);
      const at = lines.reduce((sum, line) => sum + line.length + 1, 0);
      text.focus();
      text.setSelectionRange(at, at + text.value.slice(at).split("\n")[0].length);
    });
    document.addEventListener("htmx:afterSwap", (event) => {
      if (event.detail.target === preview) previewed = asked;
      number();
      compare();
    });
    document.addEventListener("htmx:beforeRequest", (event) => {
      if (event.detail.target === preview) asked = text.value;
    });
    text.form.addEventListener("submit", () => {
      leaving = true;
    });
    addEventListener("beforeunload", (event) => {
      if (!leaving && text.value !== before) event.preventDefault();
    });
  }
})();
