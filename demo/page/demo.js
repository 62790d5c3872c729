// The page's own script: progress while a picture is made, accordions that carry a tick box, and what extensions' scripts
// may call.
"use strict";

(function () {
    const byId = (id) => document.getElementById(id);

    // ---- progress -------------------------------------------------------------------------------------------------
    let watching = false;

    function showProgress(answer) {
        const place = byId("txt2img_progress");
        if (!place) return;
        if (!answer) {
            place.replaceChildren();
            return;
        }
        if (!place.querySelector(".demo-progress")) {
            place.innerHTML =
                '<div class="demo-progress"><div class="bar"></div><span></span></div><img class="demo-preview" alt="preview">';
        }
        const percent = Math.round(answer.progress * 100);
        place.querySelector(".bar").style.width = percent + "%";
        const steps = answer.state.sampling_step + "/" + answer.state.sampling_steps;
        const told = answer.textinfo ? answer.textinfo + " " : ""; // as the host's progressbar.js shows it
        place.querySelector("span").textContent = told + percent + "% (step " + steps + ")";
        const preview = place.querySelector(".demo-preview");
        preview.hidden = !answer.current_image;
        if (answer.current_image) preview.src = "data:image/png;base64," + answer.current_image;
    }

    async function watch() {
        while (watching) {
            try {
                const answer = await (await fetch("/sdapi/v1/progress")).json();
                if (watching) showProgress(answer);
            } catch (error) {
                console.warn("no progress from the server:", error);
            }
            await new Promise((resolve) => setTimeout(resolve, 400));
        }
        showProgress(null);
    }

    function submit(...args) {
        if (!watching) {
            watching = true;
            document.body.classList.add("demo-generating");
            const log = byId("html_log_txt2img");
            log.querySelectorAll(".performance").forEach((old) => old.classList.add("of-last-time"));
            const done = new MutationObserver(() => {
                if (!log.querySelector(".performance:not(.of-last-time)")) return;
                done.disconnect();
                watching = false;
                document.body.classList.remove("demo-generating");
            });
            done.observe(log, { childList: true, subtree: true });
            watch();
        }
        return args;
    }

    // ---- what the host's page offers to scripts of extensions (script.js, javascript/edit-attention.js) -------------
    const callbacks = { loaded: [], afterUpdate: [] };
    let isLoaded = false;
    let updated;

    window.gradioApp = () => document;
    window.onUiLoaded = (callback) => callbacks.loaded.push(callback);
    window.onAfterUiUpdate = (callback) => callbacks.afterUpdate.push(callback);

    function tellScripts() {
        if (!isLoaded && byId("txt2img_prompt")) {
            isLoaded = true;
            callbacks.loaded.forEach((callback) => callback());
        }
        clearTimeout(updated);
        updated = setTimeout(() => callbacks.afterUpdate.forEach((callback) => callback()), 200);
    }

    // Ctrl+Up and Ctrl+Down: the selected words, or the one at the cursor, get a weight.
    addEventListener("keydown", (event) => {
        const target = event.composedPath()[0];
        const step = { ArrowUp: 0.1, ArrowDown: -0.1 }[event.key];
        const isPrompt = target.matches?.(":is([id*='_toprow'] [id*='_prompt'], .prompt) textarea");
        if (!step || !isPrompt || !(event.ctrlKey || event.metaKey)) return;
        event.preventDefault();
        const text = target.value;
        let [start, end] = [target.selectionStart, target.selectionEnd];
        if (start === end) {
            while (start > 0 && !/[\s.,()]/.test(text[start - 1])) start--;
            while (end < text.length && !/[\s.,:()]/.test(text[end])) end++;
        }
        const weighted = text[start - 1] === "(" && text.slice(end).match(/^:([\d.]+)\)/);
        const weight = Math.round(10 * ((weighted ? Number(weighted[1]) : 1) + step)) / 10;
        const [before, after] = weighted ? [start - 1, end + weighted[0].length] : [start, end];
        const words = text.slice(start, end);
        const made = weight === 1 ? words : `(${words}:${weight.toFixed(1)})`;
        target.value = text.slice(0, before) + made + text.slice(after);
        target.selectionStart = before + made.indexOf(words);
        target.selectionEnd = target.selectionStart + words.length;
        target.dispatchEvent(new Event("input", { bubbles: true }));
    });

    // ---- accordions whose being open is a value (ui_components.InputAccordion) -------------------------------------
    function setUpAccordion(accordion) {
        const header = accordion.querySelector(".label-wrap");
        const hidden = document.querySelector("#" + CSS.escape(accordion.id + "-checkbox") + " input");
        if (!header || !hidden || accordion.demoTick) return;
        const tick = document.createElement("input");
        tick.type = "checkbox";
        tick.id = accordion.id + "-visible-checkbox";
        tick.className = hidden.className + " input-accordion-checkbox";
        const isOpen = () => header.classList.contains("open");
        let followsOpening = true; // until the tick box itself is used
        tick.checked = hidden.checked;
        accordion.demoTick = tick;
        accordion.demoApply = () => {
            if (followsOpening && isOpen() !== tick.checked) header.click();
            if (hidden.checked !== tick.checked) hidden.click();
        };
        new MutationObserver(() => {
            if (followsOpening && tick.checked !== isOpen()) {
                tick.checked = isOpen();
                accordion.demoApply();
            }
        }).observe(header, { attributes: true, attributeFilter: ["class"] });
        tick.addEventListener("click", (event) => {
            event.stopPropagation(); // as in the host: ticking does not open, and opening no longer ticks
            followsOpening = false;
        });
        tick.addEventListener("input", () => accordion.demoApply());
        const label = header.querySelector("span");
        label.insertBefore(tick, label.firstChild);
    }

    function accordionChecked(id, on) {
        const accordion = byId(id);
        if (!accordion || !accordion.demoTick) return;
        accordion.demoTick.checked = on;
        accordion.demoApply();
    }

    function setUpAll() {
        document.querySelectorAll(".input-accordion").forEach(setUpAccordion);
    }

    document.addEventListener("DOMContentLoaded", () => {
        new MutationObserver(() => {
            setUpAll();
            tellScripts();
        }).observe(document.body, { childList: true, subtree: true });
        setUpAll();
    });

    // ---- tabs -----------------------------------------------------------------------------------------------------
    function switchToTxt2img() {
        const buttons = byId("tabs").querySelectorAll("button");
        const first = [...buttons].find((button) => button.textContent.trim() === "txt2img");
        if (first) first.click();
        return [];
    }

    window.demo = { submit, accordionChecked, switchToTxt2img };
})();
