// The page's own script: progress while a picture is made, and accordions that carry a tick box.
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
        const extra = byId(accordion.id + "-extra");
        if (extra) header.insertBefore(extra, header.lastElementChild);
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
        new MutationObserver(setUpAll).observe(document.body, { childList: true, subtree: true });
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
