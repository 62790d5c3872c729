// What the page of One More Step can do beyond gradio: words that a click puts into the OMS prompt and takes out again, a
// count of its tokens, headers that the keyboard reaches, a canvas, and pictures of this page dropped onto a place for one.
// All of it works on what stands in the page; where this script is missing, nothing else is.
"use strict";

(function () {
    const COUNT_AFTER = 600; // milliseconds without another letter
    const PICTURES = "#oms_picture_image, #img2img_oms_picture_image"; // words and count are txt2img's alone

    const field = () => document.querySelector("#oms_prompt textarea");
    const chips = () => [...document.querySelectorAll(".oms-chips button[data-word]")];

    // ---- words ----------------------------------------------------------------------------------------------------
    const escaped = (word) => word.replace(/[.*+?^${}()|[\]\\\/-]/g, "\\$&").replace(/ +/g, "\\s+");

    // The word by itself, wherever it stands; the letter before it is part of what is found.
    const wordIn = (word) => new RegExp("(^|[^\\p{L}\\p{N}_])" + escaped(word) + "(?![\\p{L}\\p{N}_])", "giu");

    const holds = (text, word) => wordIn(word).test(text);

    function without(text, word) {
        // Brackets around nothing but the word go with it, weight and all.
        const inBrackets = new RegExp("[(\\[]\\s*(" + escaped(word) + ")\\s*(?::\\s*[-+]?[\\d.]+\\s*)?[)\\]]", "giu");
        let before;
        do {
            before = text;
            text = text.replace(inBrackets, "$1");
        } while (text !== before);
        return text
            .replace(wordIn(word), "$1")
            .replace(/[ \t]+/g, " ")
            .replace(/(^|,)(\s*,)+/g, "$1")
            .replace(/ +,/g, ",")
            .replace(/^[\s,]+|[\s,]+$/g, "");
    }

    function withWord(text, word) {
        const kept = text.replace(/[\s,]+$/, "");
        return kept ? kept + ", " + word : word;
    }

    function click(chip) {
        const target = field();
        if (!target) return;
        const word = chip.dataset.word;
        target.value = holds(target.value, word) ? without(target.value, word) : withWord(target.value, word);
        target.dispatchEvent(new Event("input", { bubbles: true }));
        refresh();
    }

    document.addEventListener("click", (event) => {
        const chip = event.target.closest?.(".oms-chips button[data-word]");
        if (chip) click(chip);
    });

    function refresh() {
        const text = field()?.value ?? "";
        for (const chip of chips()) {
            const pressed = String(holds(text, chip.dataset.word));
            if (chip.getAttribute("aria-pressed") !== pressed) chip.setAttribute("aria-pressed", pressed);
        }
        for (const group of document.querySelectorAll(".oms-chips[hidden]")) group.hidden = false;
        for (const presets of document.querySelectorAll("[id$='oms_start_from'] .oms-buttons")) {
            presets.setAttribute("role", "group");
            presets.setAttribute("aria-label", "Start from");
        }
    }

    // ---- the canvas -----------------------------------------------------------------------------------------------
    const GROUND = "#808080"; // says nothing
    const RADIUS = 20;
    const KEPT = 16; // pixels of a sketch's longer side
    const SHOWN = new WeakMap(); // the text that each canvas shows
    const COLOR = new WeakMap(); // what each canvas is painted with

    const sketchField = (paint) => document.querySelector(`#${paint.dataset.field} :is(textarea, input)`);

    function fill(canvas) {
        const pen = canvas.getContext("2d");
        pen.fillStyle = GROUND;
        pen.fillRect(0, 0, canvas.width, canvas.height);
    }

    function choose(paint, color) {
        COLOR.set(paint, color);
        for (const button of paint.querySelectorAll("[data-color]")) {
            button.setAttribute("aria-pressed", String(button.dataset.color === color));
        }
    }

    // Shows what is followed where that has come from elsewhere, such as a pasted infotext.
    function showSketches() {
        for (const paint of document.querySelectorAll(".oms-paint")) {
            const canvas = paint.querySelector("canvas");
            const text = sketchField(paint)?.value ?? "";
            if (paint.hidden) {
                paint.hidden = false;
                fill(canvas);
                choose(paint, "#000000");
            }
            if (text === (SHOWN.get(paint) ?? "")) continue;
            SHOWN.set(paint, text);
            if (!text) {
                fill(canvas);
                continue;
            }
            const image = new Image();
            image.onload = () => {
                if (SHOWN.get(paint) === text) canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
            };
            image.src = text.startsWith("data:") ? text : "data:image/png;base64," + text;
        }
    }

    function told(paint, text) {
        const field = sketchField(paint);
        if (!field) return;
        SHOWN.set(paint, text);
        field.value = text;
        field.dispatchEvent(new Event("input", { bubbles: true }));
    }

    function tellDrawing(paint) {
        const canvas = paint.querySelector("canvas");
        const small = document.createElement("canvas");
        small.width = KEPT;
        small.height = Math.round((KEPT * canvas.height) / canvas.width);
        const pen = small.getContext("2d");
        pen.imageSmoothingQuality = "high";
        pen.drawImage(canvas, 0, 0, small.width, small.height);
        told(paint, small.toDataURL("image/png").split(",")[1]);
    }

    function stroke(canvas, from, to) {
        const pen = canvas.getContext("2d");
        const box = canvas.getBoundingClientRect();
        const at = (event) => [
            ((event.clientX - box.left) * canvas.width) / box.width, ((event.clientY - box.top) * canvas.height) / box.height,
        ];
        pen.strokeStyle = pen.fillStyle = COLOR.get(canvas.closest(".oms-paint"));
        pen.lineWidth = 2 * RADIUS;
        pen.lineCap = "round";
        pen.beginPath();
        pen.moveTo(...at(from));
        pen.lineTo(...at(to));
        pen.stroke();
        pen.beginPath(); // a line of no length is none
        pen.arc(...at(to), RADIUS, 0, 2 * Math.PI);
        pen.fill();
    }

    let last = null; // where the pointer was while it is down

    document.addEventListener("pointerdown", (event) => {
        if (event.button !== 0 || !event.target.matches?.(".oms-paint canvas")) return;
        event.preventDefault();
        event.target.setPointerCapture(event.pointerId);
        stroke(event.target, event, event);
        last = event;
    });
    document.addEventListener("pointermove", (event) => {
        if (!last || event.target !== last.target || event.pointerId !== last.pointerId) return;
        stroke(event.target, last, event);
        last = event;
    });
    for (const end of ["pointerup", "pointercancel"]) {
        document.addEventListener(end, (event) => {
            if (!last || event.pointerId !== last.pointerId) return;
            const paint = last.target.closest(".oms-paint");
            last = null;
            tellDrawing(paint);
        });
    }
    document.addEventListener("click", (event) => {
        const button = event.target.closest?.(".oms-paint button");
        const paint = button?.closest(".oms-paint");
        if (!paint) return;
        if (button.dataset.color) return choose(paint, button.dataset.color);
        fill(paint.querySelector("canvas"));
        told(paint, "");
    });
    document.addEventListener("input", (event) => {
        const paint = event.target.closest?.(".oms-paint");
        if (paint) choose(paint, event.target.value);
    });

    // ---- headers of accordions: no buttons in gradio 3 -------------------------------------------------------------
    const HEADS = ["presets", "advanced", "library"].map((part) => `[id$=oms_${part}] > div.label-wrap`).join(", ");

    function makeHeadsButtons() {
        for (const head of document.querySelectorAll(HEADS)) {
            head.tabIndex = 0;
            head.setAttribute("role", "button");
            head.setAttribute("aria-expanded", String(head.classList.contains("open")));
        }
    }

    document.addEventListener("keydown", (event) => {
        if (!event.target.matches?.(HEADS) || !["Enter", " "].includes(event.key)) return;
        event.preventDefault();
        event.target.click();
    });

    // ---- count of tokens ------------------------------------------------------------------------------------------
    let asked = null; // the text that was to be counted last
    let answered; // the text that the count in the page is of
    let waiting;

    function count() {
        const button = document.querySelector("#oms_prompt_count_button");
        const text = field()?.value;
        if (!button || text === undefined || text === asked) return;
        asked = text;
        button.click();
    }

    function countSoon() {
        clearTimeout(waiting);
        waiting = setTimeout(count, COUNT_AFTER);
    }

    // gradio 4 drops a click while it waits for the answer to the last one.
    function countAgain() {
        const shown = document.querySelector(".oms-count")?.dataset.of;
        if (shown === undefined || shown === answered) return;
        answered = shown;
        if (shown === field()?.value) return;
        asked = null;
        countSoon();
    }

    function promptChanged() {
        refresh();
        countSoon();
    }

    // ---- pictures of this page ------------------------------------------------------------------------------------
    const hasFile = (transfer) => [...(transfer?.items ?? [])].some((item) => item.kind === "file");
    const placeOf = (event) => event.composedPath()[0]?.closest?.(PICTURES);

    function addressIn(transfer) {
        const address = transfer.getData("text/uri-list").split("\n").find((line) => line && !line.startsWith("#"));
        try {
            const url = new URL(address);
            return url.origin === location.origin || ["data:", "blob:"].includes(url.protocol) ? url.href : null;
        } catch {
            return null;
        }
    }

    async function put(place, address) {
        const answer = await fetch(address);
        const blob = await answer.blob();
        if (!answer.ok || !blob.type.startsWith("image/")) return;
        const files = new DataTransfer();
        files.items.add(new File([blob], "picture." + blob.type.slice(6), { type: blob.type }));
        let input = place.querySelector("input[type=file]");
        if (!input) { // a picture is there already: the last of its buttons takes it away
            [...place.querySelectorAll("button")].pop()?.click();
            await new Promise((resolve) => setTimeout(resolve, 100));
            input = place.querySelector("input[type=file]");
        }
        if (!input) return;
        input.files = files.files;
        input.dispatchEvent(new Event("change", { bubbles: true }));
    }

    document.addEventListener("dragover", (event) => {
        if (!placeOf(event) || hasFile(event.dataTransfer)) return;
        event.preventDefault(); // says that it may be dropped here
        event.dataTransfer.dropEffect = "copy";
    }, true);

    document.addEventListener("drop", (event) => {
        const place = placeOf(event);
        if (!place || hasFile(event.dataTransfer)) return; // files are gradio's and the host's
        const address = addressIn(event.dataTransfer);
        if (!address) return;
        event.preventDefault();
        event.stopPropagation();
        put(place, address).catch((error) => console.warn("One More Step: the picture cannot be read:", error));
    }, true);

    window.oneMoreStep = { promptChanged };
    onUiLoaded(promptChanged);
    onAfterUiUpdate(() => {
        refresh();
        countAgain();
        makeHeadsButtons();
        showSketches();
    });
})();
