// What the page of One More Step can do beyond gradio: words that a click puts into the OMS prompt and takes out again, a
// count of its tokens, headers that the keyboard reaches, and pictures of this page dropped onto a place for a picture.
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

    // ---- headers of accordions: no buttons in gradio 3 -------------------------------------------------------------
    const HEADS = ":is(#oms_presets, #oms_advanced, #oms_library) > div.label-wrap";

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
    });
})();
