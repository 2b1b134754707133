"""report.html in a browser: what people do with it, on a screen, a phone and paper."""

import os
import shutil
from contextlib import contextmanager

import matplotlib.figure
import pytest

from influcoder_lightning.report.press.blocks import (
    Chart,
    Code,
    Folded,
    Number,
    Numbers,
    Samples,
    Section,
    Table,
    Text,
)
from influcoder_lightning.report.press.html import write_page
from influcoder_lightning.report.press.style import ACCENT, INK, tidy

N = 137
EVIL = '</script><script>window.hit = 1</script><img src=x onerror="window.hit = 2">'
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


def figure(width):
    made = matplotlib.figure.Figure(figsize=(width, 3), layout="constrained")
    axes = made.subplots()
    axes.plot([1, 2, 3], [3, 1, 2], color=ACCENT)
    axes.set_xlabel("step", color=INK)
    tidy(axes)
    return made


def rows():
    for i in range(N):
        task = None if i % 5 == 4 else f"task {i % 3}"
        prompt = f"question {i} {'word ' * 300}" if i == 3 else f"question {i}"
        response = EVIL if i == 1 else f"answer {i % 7}"
        yield [i + 1, 1 - i / 50, f"id-{i}", task, prompt, response]


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    columns = ["rank", "score", "sample", "task", "prompt", "response"]
    marks = {"best": range(3), "worst": [N - 1, N - 2]}
    head = [
        Text("Held-out loss is lower.", lead=True, terms=["held-out loss"]),
        Numbers([Number("held-out loss", "2.1", "95 % interval 2.0 to 2.2")]),
        Chart(figure(6.8), "Loss", "loss.png", narrow=figure(4.4)),
    ]
    sections = [
        Section("Which samples helped?", head),
        Section("Samples", [Samples(columns, list(rows()), marks)]),
        Section("Details", [Table(["arm", *"abcdefghij"], [["top_k", *[0.123456] * 10]])]),
        Section("Wide", [Chart(figure(12), "A wide one", "wide.png")]),
        Section("Repeat", [Code("influcoder " + "x" * 300), Folded("All", [Code("a: 1")])]),
    ]
    write_page(folder, sections)
    return (folder / "report.html").as_uri()


@pytest.fixture(scope="module")
def browser():
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        message = "no Chromium here; install one (Debian: apt-get install chromium)"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield opened
        opened.close()


@pytest.fixture
def visit(browser, report):
    """Opens the page; when the test ends, it must have been quiet and have fetched nothing."""

    @contextmanager
    def opened(**options):
        context = browser.new_context(**({"viewport": {"width": 1280, "height": 800}} | options))
        context.set_default_timeout(300_000)  # a busy machine is no fault of the page
        page = context.new_page()
        noise = []
        page.on("console", lambda message: noise.append(message.text))
        page.on("pageerror", lambda error: noise.append(str(error)))
        page.on("request", lambda request: noise.append(request.url))
        page.goto(report)
        yield page
        assert page.evaluate("window.hit") is None
        assert noise == [report]
        context.close()

    return opened


def column(page, name):
    return page.locator(f'.explorer td[data-column="{name}"]').all_text_contents()


def test_the_first_screenful_says_what_came_out(visit):
    with visit() as page:
        for wanted in ("h1", ".lead", ".numbers", "header figure svg"):
            box = page.locator(wanted).first.bounding_box()
            assert box["y"] >= 0
            assert box["y"] + box["height"] <= 800, wanted
        assert page.locator(".static").is_hidden()
        for link in page.locator("nav a").all():
            assert page.locator(link.get_attribute("href")).count() == 1


def test_columns_sort_by_click_and_by_keyboard(visit):
    with visit() as page:
        head = page.locator(".explorer th", has_text="score")
        head.locator("button").click()
        assert head.get_attribute("aria-sort") == "descending"
        assert column(page, "rank")[:2] == ["1", "2"]
        head.locator("button").press("Enter")
        assert head.get_attribute("aria-sort") == "ascending"
        assert column(page, "rank")[:2] == [str(N), str(N - 1)]
        page.locator(".explorer th", has_text="sample").locator("button").press("Space")
        assert column(page, "sample")[:3] == ["id-0", "id-1", "id-2"]  # numbers in names count
        assert page.locator("[aria-sort]").count() == 1


def test_search_filters_and_pages(visit):
    with visit() as page:
        count, where = page.locator(".count"), page.locator(".pager span")
        assert count.text_content() == f"{N} of {N} samples"
        assert where.text_content() == "page 1 of 6"
        page.get_by_role("button", name="Next").click()
        assert column(page, "rank")[0] == "26"
        page.get_by_label("Search").fill("QUESTION answer 3")
        expected = [i for i in range(N) if i % 7 == 3 or (i % 7 != 1 and "3" in f"{i}{i + 1}")]
        assert int(count.text_content().split()[0]) >= len(expected)
        assert column(page, "rank")[0] == "3"
        page.get_by_label("Search").fill("answer id-13")
        assert column(page, "sample") == [f"id-{i}" for i in (13, *range(130, N))]
        page.get_by_label("Search").fill("")
        page.get_by_label("Task").select_option("task 1")
        assert set(column(page, "task")) == {"task 1"}
        expected = sum(i % 3 == 1 and i % 5 != 4 for i in range(N))
        assert count.text_content() == f"{expected} of {N} samples"
        page.get_by_label("Task").select_option("")
        page.get_by_label("Show").select_option("worst")
        assert column(page, "rank") == [str(N - 1), str(N)]
        page.get_by_label("Search").fill("nothing has this")
        assert count.text_content() == f"0 of {N} samples"


def test_a_row_unfolds_to_its_whole_text_which_never_runs(visit):
    with visit() as page:
        page.get_by_label("Search").fill("id-1")
        row = page.locator(".explorer tbody tr").first
        button = row.get_by_role("button")
        button.press("Enter")
        assert button.get_attribute("aria-expanded") == "true"
        whole = page.locator(".whole")
        assert EVIL in whole.inner_text()
        assert whole.locator("script, img").count() == 0
        assert "best" in whole.inner_text()
        row.click()
        assert whole.count() == 0
        page.get_by_label("Search").fill("id-3")
        page.locator(".explorer tbody tr").first.click()
        assert whole.inner_text().count("word") == 300


def test_definitions_by_pointer_keyboard_and_finger(visit):
    with visit() as page:
        tip = page.locator("#tip")
        term = page.locator(".lead .term")
        term.hover()
        assert "negative log-likelihood" in tip.inner_text()
        page.mouse.move(600, 700)
        tip.wait_for(state="hidden")
        term.focus()
        assert tip.is_visible()
        page.keyboard.press("Escape")
        assert tip.is_hidden()
        page.locator(".explorer .sort", has_text="rank").hover()
        assert "1 is the most helpful" in tip.inner_text()
    with visit(has_touch=True, viewport={"width": 390, "height": 844}) as page:
        page.locator(".lead .term").tap()
        box = page.locator("#tip").bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 390
        page.locator(".numbers dd").tap()
        assert page.locator("#tip").is_hidden()


def colours(page):
    script = """() => [getComputedStyle(document.body), getComputedStyle(
        document.querySelector('header svg text'))].flatMap((s) => [s.backgroundColor, s.fill])"""
    return page.evaluate(script)


def test_light_and_dark(visit):
    with visit(color_scheme="light") as page:
        light = colours(page)
        page.get_by_role("button", name="Dark theme").click()
        chosen = colours(page)
        assert page.get_by_role("button", name="Light theme").is_visible()
    with visit(color_scheme="dark") as page:
        dark = colours(page)
        page.emulate_media(media="print", color_scheme="dark")
        assert colours(page) == light
    assert chosen == dark
    assert light[0] != dark[0]
    assert light[3] != dark[3]


def test_a_phone_has_no_sideways_scroll_and_readable_charts(visit):
    with visit(viewport={"width": 390, "height": 844}) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert page.locator("header .narrow svg").is_visible()
        assert page.locator("header .wide svg").is_hidden()
        sizes = page.evaluate(
            """() => [...document.querySelectorAll('figure svg text')]
            .filter((t) => t.checkVisibility())
            .map((t) => parseFloat(getComputedStyle(t).fontSize) * t.getScreenCTM().a)"""
        )
        assert min(sizes) >= 10
        assert page.locator(".explorer tbody tr").first.is_visible()


def test_paper_has_the_first_samples_and_the_definitions(visit):
    with visit() as page:
        page.emulate_media(media="print")
        assert page.locator(".explorer").is_hidden()
        assert page.locator("#theme").is_hidden()
        static = page.locator(".static")
        assert static.is_visible()
        assert static.locator("tbody tr").count() == 5
        assert page.locator(".glossary").is_visible()
        assert page.pdf(format="A4").startswith(b"%PDF")


def test_without_scripts_the_samples_are_there(visit):
    with visit(java_script_enabled=False) as page:
        assert page.locator(".static").is_visible()
        assert page.locator(".explorer").is_hidden()
        assert page.locator("#theme").is_hidden()
