"""The page in a real browser: what people do with it, on a desk and on a phone, by keyboard and by ear."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("starlette", reason="the extra web is not installed")
pytest.importorskip("uvicorn", reason="the extra web is not installed")
from over_http import LLAMA, result_file

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome-headless-shell")
BROWSER = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), "")
LONG_MS = 120_000  # on a machine that does much else
FEW = "?gpus=L40S,H100&model=Qwen3-8B&input_len=500&output_len=100&amount=2"  # which are quick
QUALITY = "?mode=quality&on=H100,L4&unit=concurrency&amount=4&input_len=500&output_len=100"
UPGRADE = "?mode=upgrade&have=A100&consider=H100,L4&model=Qwen3-8B"
HOME = "?mode=local&home=RTX-3060&model=Qwen3-8B"
TRAIN = "?mode=tune&model=Qwen3-8B&train_gpus=H100,L4&n_gpus=2"
SERVE = "import sys; from predictor.cli import main; sys.exit(main(sys.argv[1:]))"

pytestmark = pytest.mark.skipif(
    not BROWSER, reason="no Chromium is installed; apt-get install chromium, or set CHROMIUM"
)


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    command = [sys.executable, "-c", SERVE, "web", "--port", "0"]
    errors = tmp_path_factory.mktemp("server") / "stderr"
    with errors.open("w") as log, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True) as server:
        yield server.stdout.readline().strip()
        server.terminate()
    assert "Traceback" not in errors.read_text()


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def open_page(browser, address):
    """Opens the page; afterwards nothing was asked elsewhere, and no script failed."""
    pages, wrong = [], []

    def open_at(query="", width=1280, wait=True, **settings):
        context = browser.new_context(viewport={"width": width, "height": 900}, **settings)
        page = context.new_page()
        page.set_default_timeout(LONG_MS)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
        page.on("request", lambda request: pages.append(request.url))
        page.goto(f"{address}/{query}")
        if wait:
            answered(page)
        return page

    yield open_at
    assert all(url.startswith((address, "blob:")) for url in pages), pages
    assert not [text for text in wrong if "status of 4" not in text]  # what a wrong question is answered with


def answered(page):
    page.locator("#busy").wait_for(state="hidden")


def text(page, selector):
    return page.inner_text(selector)


def test_an_answer_is_headline_tiles_plots_and_table(open_page):
    page = open_page(FEW)
    assert re.match(
        r"\d+ × (L40S|H100-SXM-80GB), tp \d.*, \d+ replicas?: \$[\d.]+ per hour \(\$[\d.]+ per million tokens\); "
        r"holds (only )?TTFT < 1 s and TPOT < 40 ms with \d+ %",
        text(page, "#headline"),
    )
    assert text(page, "#badge") == "seen GPU"
    playwright.expect(page.locator("#known")).to_contain_text("in the median")
    assert page.locator(".tile").count() == 5
    assert page.locator(".tile .interval").count() == 4
    page.wait_for_selector(".later .plot")
    assert page.locator(".plot").count() == 3
    assert page.locator(".plot .limit").count() >= 2
    assert page.locator("#table tbody tr").count() >= 2


def test_a_tile_turns_over_to_its_arithmetic(open_page):
    page = open_page(FEW)
    for tile in page.locator(".tile").all():
        turn = tile.locator(".turn")
        assert turn.get_attribute("aria-expanded") == "false"
        turn.click()
        assert turn.get_attribute("aria-expanded") == "true"
        tile.locator(".behind p").first.wait_for()
    sums = page.locator(".sum").all_inner_texts()
    assert any("attention" in one for one in sums) and any("KV cache" in one for one in sums)
    assert any("÷ tokens per second" in one for one in sums)


def test_a_click_on_a_point_selects_its_plan(open_page):
    page = open_page(FEW)
    first = text(page, ".headline")
    other = page.locator(".plots > figure .dot[aria-pressed=false]").last
    label = other.get_attribute("aria-label")
    other.dispatch_event("click")  # others may lie upon it
    assert text(page, ".headline") != first
    assert label.split(",")[0] in text(page, "#headline")
    row = page.locator("#table tr.chosen")
    assert row.count() == 1


def test_the_badge_says_what_whole_answers_reached(open_page):
    page = open_page(FEW.replace("L40S,H100", "H100") + "&engine=vllm")
    known = page.locator("#validated")
    playwright.expect(known).to_contain_text("Whole answers of vllm that others measured on this GPU: TPOT off by")
    page.fill("[data-key=gpus]", "L4")
    page.press("[data-key=gpus]", "Enter")
    playwright.expect(known).to_contain_text("No measured runs of vllm on such a GPU", timeout=LONG_MS)


def test_an_upgrade_is_ratios_of_fleets(open_page):
    page = open_page("?mode=upgrade&have=2xA100&consider=2xH100,2xL4&model=Qwen3-8B&unit=users&amount=8")
    assert re.match(
        r"2 × H100-SXM-80GB in place of 2xA100: [\d.]+ × as fast \([\d.]+–[\d.]+\), ", text(page, "#headline")
    )
    assert page.locator(".tile").count() == 4 and page.locator("#table tbody tr").count() == 2
    page.locator("summary", has_text="mix.toml").click()
    assert 'model = "Qwen3-8B"' in text(page, "#copies pre") and "concurrency = 8" in text(page, "#copies pre")
    page.get_by_role("button", name="L4", exact=True).click()
    assert text(page, "#headline").startswith("2 × L4 ")


def scored(page, folder):
    """Drop result files of two formats of a model, and of one that no file tells."""
    told = {"bf16": (0.7, LLAMA), "fp8": (0.69, f"{LLAMA},quantization=fp8"), "mine": (0.75, "pretrained=/data/mine")}
    for name, (accuracy, arguments) in told.items():
        (folder / f"{name}.json").write_text(result_file(accuracy, arguments))
    page.set_input_files("#scores-file", [folder / f"{name}.json" for name in told])
    playwright.expect(page.locator("#error")).to_contain_text("say which beside the file", timeout=LONG_MS)
    page.get_by_label("Model and number format of mine.json").fill("Qwen3-8B:int4_wo")
    page.keyboard.press("Enter")
    playwright.expect(page.locator("#headline")).to_contain_text("Qwen3-8B, int4_wo, ", timeout=LONG_MS)
    answered(page)


def test_scores_are_put_beside_price_and_latency(open_page, tmp_path):
    page = open_page(QUALITY)
    assert "Drop result files" in text(page, "#status") and page.locator("#answer").is_hidden()
    scored(page, tmp_path)
    assert re.search(r"quality 0\.750 ± 0\.004 at \$[\d.]+ per million tokens", text(page, "#headline"))
    assert page.locator(".plot").count() == 2 and page.locator(".plot .dot").count() == 12
    assert page.locator("#table tbody tr").count() == 6 and page.locator(".tile").count() == 4
    page.get_by_role("button", name="How? Quality").click()
    assert "0.5 is neutral" in text(page, ".sum")
    assert "--as mine.json=Qwen3-8B:int4_wo --gpu H100,L4 --concurrency 4" in text(page, "#copies")
    assert '"bf16.json" was run with limit 100' in text(page, "#notes")
    first = text(page, "#headline")
    page.locator(".plots .dot[aria-pressed=false]").last.focus()
    page.keyboard.press("Enter")
    assert text(page, "#headline") != first
    page.get_by_role("button", name="Without mine.json").click()
    playwright.expect(page.locator("#table tbody tr")).to_have_count(4, timeout=LONG_MS)
    assert not text(page, "#error")


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (360, "dark")])
def test_axe_finds_nothing_beside_scores(open_page, tmp_path, width, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-core is not installed").Axe()
    page = open_page(QUALITY, width=width, color_scheme=scheme)
    scored(page, tmp_path)
    page.get_by_role("button", name="How? Quality").click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    found = axe.run(page).response["violations"]
    assert not [(one["id"], [node["target"] for node in one["nodes"]]) for one in found]


def test_a_result_file_that_is_dropped_is_known_by_what_it_holds(open_page):
    page = open_page(FEW, wait=False)
    drop = """content => {
        const data = new DataTransfer();
        data.items.add(new File([content], "a.json"));
        document.dispatchEvent(new DragEvent("drop", { dataTransfer: data, cancelable: true }));
    }"""
    page.evaluate(drop, result_file(0.7))
    playwright.expect(page.locator("#headline")).to_contain_text("quality 0.700 ± 0.004", timeout=LONG_MS)
    assert page.is_checked("input[value=quality]")


def test_at_home_every_model_has_its_widest_format(open_page):
    page = open_page("?mode=local&home=RTX-3060")
    assert re.match(r"\d+ of \d+ models run on 1 × RTX-3060-12GB\. .+ tokens per second", text(page, "#headline"))
    assert page.locator("#table tbody tr").count() > 10
    page.get_by_role("button", name="How? First token").click()
    page.locator(".sum").first.wait_for()
    page.get_by_role("button", name="Qwen3-235B-A22B").click()
    assert "has no room" in text(page, "#headline")
    page.check("input[value=serve]")
    assert page.input_value("#model") == "Qwen3-32B"


def test_a_trace_and_prices_are_dropped_in(open_page, tmp_path):
    trace, prices = tmp_path / "arrivals.csv", tmp_path / "mine.csv"
    trace.write_text("arrival_s,input_len,output_len\n" + "".join(f"{place},300,60\n" for place in range(40)))
    rows = [f"mine,L4,{gpus},on-demand,{gpus / 10},2026-01-01\n" for gpus in (1, 2, 4, 8)]
    prices.write_text("provider,gpu,n_gpus,kind,usd_per_hour,date\n" + "".join(rows))
    page = open_page(FEW.replace("L40S,H100", "L4"))
    page.set_input_files("#prices-file", prices)
    playwright.expect(page.locator("#notes")).to_contain_text("of mine", timeout=LONG_MS)
    playwright.expect(page.locator("#prices")).to_contain_text("Your prices, mine.csv (L4), come before the list.")
    page.set_input_files("#file", trace)  # where a model is dropped
    playwright.expect(page.locator("#error")).to_contain_text("neither JSON nor GGUF")
    page.set_input_files("#trace-file", trace)
    playwright.expect(page.locator("#copies")).to_contain_text("--trace arrivals.csv", timeout=LONG_MS)
    playwright.expect(page.locator("#trace")).to_contain_text("40 requests, 1.03 per second")
    assert page.is_disabled("#amount") and page.locator("#lengths").is_hidden()
    answered(page)
    for kind in ("trace", "prices"):
        page.locator(f"#{kind} button").click()
        answered(page)
    playwright.expect(page.locator("#copies")).not_to_contain_text("--trace")
    playwright.expect(page.locator("#notes")).not_to_contain_text("of mine")
    assert page.is_enabled("#amount") and page.locator("#lengths").is_visible()


def test_a_busy_server_is_asked_again(open_page):
    page = open_page(FEW, wait=False)
    asked = []

    def busy(route):
        asked.append(route.request.url)
        if len(asked) > 1:
            return route.continue_()
        return route.fulfill(status=429, headers={"retry-after": "1"}, json={"error": "busy"})

    page.route("**/api/upgrade?*", busy)
    page.check("input[value=upgrade]")
    playwright.expect(page.locator("#headline")).to_contain_text("in place of", timeout=LONG_MS)
    assert len(asked) == 2


def test_users_at_once_are_not_those_who_begin_together(open_page):
    page = open_page(FEW.replace("L40S,H100", "L4") + "&unit=users")
    assert "--warmup 4" in text(page, "#copies") and "--concurrency 2" in text(page, "#copies")
    page.select_option("#unit", "concurrency")
    answered(page)
    assert "--warmup" not in text(page, "#copies")


@pytest.mark.parametrize("engine", ["vllm", "sglang", "trtllm", "llama.cpp"])
def test_every_engine_that_can_be_chosen_is_known(open_page, engine):
    page = open_page(FEW.replace("L40S,H100", "L4"))
    page.select_option("[data-key=engine]", engine)
    answered(page)
    assert not text(page, "#error") and f"--engine {engine}" in text(page, "#copies")


def test_points_and_rows_are_reached_by_keyboard(open_page):
    page = open_page(FEW)
    first = text(page, ".headline")
    page.locator(".plots > figure .dot[aria-pressed=false]").last.focus()
    page.keyboard.press("Enter")
    chosen = text(page, ".headline")
    assert chosen != first
    page.locator("#table button.link[aria-pressed=false]").first.focus()
    page.keyboard.press("Enter")
    assert text(page, ".headline") != chosen
    page.locator("#model").focus()
    page.keyboard.press("Enter")
    answered(page)
    assert text(page, "#status")


def test_the_table_sorts(open_page):
    page = open_page(FEW)
    price = page.locator("#table th button", has_text="$/h")
    price.click()
    assert page.locator("#table th[aria-sort=ascending]").inner_text().startswith("$/h")
    cells = page.locator("#table tbody tr[data-holds] td:nth-child(5)").all_inner_texts()
    costs = [float(cell.replace("$", "").replace(",", "")) for cell in cells if cell.startswith("$")]
    assert len(costs) >= 2 and costs == sorted(costs)
    price.click()
    assert page.locator("#table th[aria-sort=descending]").count() == 1
    page.fill("#filter", "L40S")
    assert all("L40S" in row for row in page.locator("#table tbody tr").all_inner_texts())


def test_a_gpu_that_lost_says_why_and_what_would_help(open_page):
    page = open_page(FEW.replace("L40S", "L4").replace("Qwen3-8B", "Qwen3-32B") + "&max_gpus=1")
    ask = page.get_by_role("button", name="What would help on L4?")
    ask.first.click()
    playwright.expect(page.locator("#help")).to_contain_text("GB", timeout=LONG_MS)
    assert re.search(r"needs [\d.]+ of [\d.]+ GB\. What would help: .+fits", text(page, "#help"))


def test_the_address_asks_the_same_again(open_page):
    page = open_page(FEW)
    page.fill("[data-key=output_len]", "250")
    page.press("[data-key=output_len]", "Enter")
    answered(page)
    assert "output_len=250" in page.url
    again = open_page(page.url.split("/", 3)[3])
    assert again.input_value("[data-key=output_len]") == "250"
    assert text(again, "#headline") == text(page, "#headline")


def test_presets_fill_the_sentence(open_page):
    page = open_page(FEW)
    for name, prompt in (("Chat", "1000"), ("Agent", "12000"), ("Batch", "2000"), ("RAG", "6000")):
        page.get_by_role("button", name=name, exact=True).click()
        assert page.input_value("[data-key=input_len]") == prompt
    answered(page)
    assert not text(page, "#error")


def test_any_gpu_is_answered_for_a_few_at_first(open_page):
    page = open_page("?model=Qwen3-8B", wait=False)
    page.wait_for_selector("#answer:not([hidden])")
    playwright.expect(page.locator("#status")).to_contain_text("now all GPUs are searched", timeout=LONG_MS)
    assert "per million tokens" in text(page, "#headline")
    page.fill("[data-key=gpus]", "L4")  # nobody waits for the rest
    page.press("[data-key=gpus]", "Enter")
    playwright.expect(page.locator("#headline")).to_contain_text("× L4", timeout=LONG_MS)


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("?gpus=L4&model=no-such-model", 'unknown model "no-such-model"'),
        ("?gpus=H900", 'no GPU called "H900"'),
        ("?gpus=L4&input_len=-3", "input_len is -3; it must be at least 1."),
        ("?gpus=L4&amount=", "Load is missing."),
        ("?gpus=L4&model=../../etc/passwd", "files of the server are not read"),
        ("?gpus=L4&amount=1e99", "request_rate is 1e+99"),
        ("?gpus=<img src=x onerror=alert(1)>", "<img src=x"),
    ],
)
def test_what_is_wrong_is_said(open_page, query, sentence):
    page = open_page(query, wait=False)
    playwright.expect(page.locator("#error")).to_contain_text(sentence, timeout=LONG_MS)
    assert page.locator("#error img").count() == 0
    assert page.locator("#error").get_attribute("role") == "alert"


def test_what_no_gpu_keeps_has_a_nearest_target(open_page):
    page = open_page(FEW.replace("L40S,H100", "L4") + "&tpot=20&model=Qwen3-8B&amount=400&max_gpus=2")
    assert "Nothing holds" in text(page, "#why") or "No GPU can" in text(page, "#headline")


def test_a_file_that_is_dropped_is_asked_about(open_page, tmp_path):
    config = {"model_type": "qwen3", "hidden_size": 1024, "num_hidden_layers": 4, "num_attention_heads": 16}
    config |= {"num_key_value_heads": 8, "head_dim": 64, "intermediate_size": 3072, "vocab_size": 32000}
    path = tmp_path / "tiny-model.json"
    path.write_text(json.dumps({**config, "max_position_embeddings": 4096, "torch_dtype": "bfloat16"}))
    page = open_page(FEW.replace("L40S,H100", "L4"))
    page.set_input_files("#file", path)
    playwright.expect(page.locator("#copies")).to_contain_text("tiny-model", timeout=LONG_MS)
    assert page.input_value("#model") == "tiny-model"
    path.write_text("no json")
    page.set_input_files("#file", path)
    playwright.expect(page.locator("#error")).to_contain_text("neither JSON nor GGUF")


def test_only_the_header_of_a_gguf_is_sent(open_page, tmp_path):
    from test_web_files import gguf_header

    header, path = gguf_header(), tmp_path / "tiny.gguf"
    path.write_bytes(header + bytes(5_000_000))
    page = open_page(FEW.replace("L40S,H100", "L4"))
    with page.expect_request(lambda request: "/api/model?" in request.url) as sent:
        page.set_input_files("#file", path)
    assert int(sent.value.header_value("content-length") or len(header)) == len(header)
    playwright.expect(page.locator("#model")).to_have_value("tiny", timeout=LONG_MS)
    path.write_bytes(b"GGUF" + bytes(10))
    page.set_input_files("#file", path)
    playwright.expect(page.locator("#error")).to_contain_text("GGUF")


def test_training_says_hours_and_cost(open_page):
    page = open_page(TRAIN)
    assert re.match(
        r"2 × (H100|L4).*(min|h) \(.+\), \$[\d.]+; (fits|does not fit), P\(out of memory\)", text(page, "#headline")
    )
    page.locator(".legend").wait_for()
    assert page.locator(".tile").count() == 5
    page.check("input[value=train]")
    answered(page)
    page.select_option("[data-key=zero_stage]", "0")
    answered(page)
    again = open_page(page.url.split("/", 3)[3])
    assert again.input_value("[data-key=zero_stage]") == "0" and again.input_value("[data-key=method]") == "full"
    assert page.is_disabled("[data-key=method]")
    assert "method" in page.locator("#copies").inner_text() and "--method full" in page.locator("#copies").inner_text()


def test_what_is_shown_can_be_taken_along(open_page, address):
    page = open_page(FEW, permissions=["clipboard-read", "clipboard-write"])
    for name in ("Start each replica", "Ask on the command line", "This question"):
        page.get_by_role("button", name=f"Copy: {name}").click()
    assert page.evaluate("navigator.clipboard.readText()") == page.url
    page.locator("summary", has_text="kubernetes.yaml").click()
    page.get_by_role("button", name="Copy: kubernetes.yaml").click()
    assert "apiVersion" in page.evaluate("navigator.clipboard.readText()")
    with page.expect_download() as taken:
        page.click("#csv")
    lines = Path(taken.value.path()).read_text().splitlines()
    assert lines[0].startswith("gpu,n_gpus,replicas,tp,") and len(lines) >= 3


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_theme_is_the_systems_and_can_be_changed(open_page, scheme):
    page = open_page(FEW, wait=False, color_scheme=scheme)
    paper = "getComputedStyle(document.body).backgroundColor"
    before = page.evaluate(paper)
    assert page.get_attribute("#theme", "aria-pressed") == str(scheme == "dark").lower()
    page.click("#theme")
    assert page.evaluate(paper) != before
    page.reload()
    assert page.evaluate(paper) != before


@pytest.mark.parametrize("query", [FEW, TRAIN, UPGRADE, HOME, "api/docs"])
def test_a_phone_scrolls_down_only(open_page, query):
    page = open_page(query, width=360, wait=query != "api/docs")
    if query == FEW:
        page.wait_for_selector(".later .plot")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    wide = (
        "[...document.querySelectorAll('#ask .field input')].filter((one) => one.offsetParent && one.clientWidth < 60)"
    )
    assert page.evaluate(f"{wide}.length") == 0  # what is typed can be read


@pytest.mark.parametrize(
    ("query", "width", "scheme"),
    [
        (FEW, 1280, "light"),
        (FEW, 1280, "dark"),
        (FEW, 360, "light"),
        (TRAIN, 1280, "light"),
        (UPGRADE, 390, "light"),
        (HOME, 1280, "dark"),
        ("api/docs", 1280, "dark"),
    ],
)
def test_axe_finds_nothing(open_page, query, width, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-core is not installed").Axe()
    page = open_page(query, width=width, wait=query != "api/docs", color_scheme=scheme)
    if query == FEW:
        page.wait_for_selector(".later .plot")
    for turn in page.locator(".turn").all()[:2]:
        turn.click()
    found = axe.run(page).response["violations"]
    assert not [(one["id"], [node["target"] for node in one["nodes"]]) for one in found]
