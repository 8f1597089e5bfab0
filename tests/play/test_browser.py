"""The page in a real browser without a window: load, drive, fork, record, come back, two tabs, a phone's width.

With WORLDGYM_SCREENSHOTS=FOLDER pictures of the page are left there to look at.
"""

import asyncio
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from aiohttp import web
from PIL import Image
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from worldgym.data.recordings import Recordings
from worldgym.envs.actions import ActionCodec
from worldgym.play import planner
from worldgym.play.server import Server
from worldgym.play.session import Settings

pytestmark = pytest.mark.browser
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
PATIENCE = 180  # seconds: machines that run tests are busy


class House:
    """A server in a thread, which can be stopped and started again at the same address."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.port = settings, 0
        self.start()

    @property
    def address(self) -> str:
        """Of the page."""
        return f"http://127.0.0.1:{self.port}/token/"

    def start(self) -> None:
        self._loop, ready = asyncio.new_event_loop(), threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ready,))
        self._thread.start()
        assert ready.wait(PATIENCE)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _run(self, ready: threading.Event) -> None:
        self._loop.run_until_complete(self._serve(ready))
        self._loop.close()

    async def _serve(self, ready: threading.Event) -> None:
        self._stop = asyncio.Event()
        runner = web.AppRunner(Server(self.settings, "token").app(), shutdown_timeout=1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", self.port, reuse_address=True).start()
        self.port = runner.addresses[0][1]
        ready.set()
        await self._stop.wait()
        await runner.cleanup()


class Page:
    """A tab of the browser."""

    def __init__(self, browser: Any) -> None:
        self.browser = browser

    def open(self, address: str) -> None:
        self.browser.get(address)
        self.wait(lambda: self.canvases and self.script("return canvases()[0].width > 1"))

    def wait(self, condition: Callable[[], Any]) -> Any:
        """Until the condition holds; its value."""
        ignored = (StaleElementReferenceException,)
        return WebDriverWait(self.browser, PATIENCE, 0.05, ignored).until(lambda _: condition())

    def press(self, keys: str) -> None:
        self.browser.find_element(By.TAG_NAME, "body").send_keys(keys)

    def text(self, name: str) -> str:
        """What the element with this id says."""
        shown: str = self.browser.find_element(By.ID, name).text
        return shown

    @property
    def step(self) -> int:
        return int(self.text("step"))

    @property
    def canvases(self) -> list[Any]:
        found: list[Any] = self.browser.find_elements(By.CSS_SELECTOR, "#screen canvas")
        return found

    def step_once(self) -> None:
        before = self.step
        self.press(".")
        self.wait(lambda: self.step == before + 1)

    def script(self, code: str) -> Any:
        helper = "const canvases = () => document.querySelectorAll('#screen canvas');"
        return self.browser.execute_script(helper + code)

    def pixels(self, index: int) -> Any:
        """A picture as the page draws it, uint8 ``[H, W, 3]``."""
        code = "const c = canvases()[arguments[0]];"
        code += "return [c.width, [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]];"
        width, values = self.browser.execute_script(
            "const canvases = () => document.querySelectorAll('#screen canvas');" + code, index
        )
        return np.array(values, np.uint8).reshape(-1, width, 4)[..., :3]

    def screenshot(self, name: str) -> None:
        folder = os.environ.get("WORLDGYM_SCREENSHOTS")
        if folder:
            height = self.script("return document.documentElement.scrollHeight")
            self.resize(self.script("return innerWidth"), height)
            self.browser.save_screenshot(str(Path(folder) / f"{name}.png"))

    def resize(self, width: int, height: int) -> None:
        """A window of this size inside, as narrow as a phone's too."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def errors(self) -> list[str]:
        """What the page complained of on the console, lost connections aside."""
        lines = [entry["message"] for entry in self.browser.get_log("browser") if entry["level"] == "SEVERE"]
        return [line for line in lines if "WebSocket" not in line]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('browser')}", "--window-size=1280,960"):
        options.add_argument(flag)
    options.binary_location = shutil.which("chromium") or ""
    options.page_load_strategy = "eager"
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, Service(shutil.which("chromedriver")))
    yield driver
    driver.quit()


@pytest.fixture
def house(settings: Settings) -> Iterator[House]:
    running = House(settings)
    yield running
    running.stop()


@pytest.fixture
def page(browser: Any, house: House) -> Iterator[Page]:
    """A new tab that shows the first frame."""
    browser.switch_to.new_window("tab")
    opened = Page(browser)
    opened.resize(1280, 960)
    opened.open(house.address)
    yield opened
    assert opened.errors() == []
    for tab in browser.window_handles[1:]:
        browser.switch_to.window(tab)
        browser.close()
    browser.switch_to.window(browser.window_handles[0])


def test_the_page_shows_both_worlds_and_every_control_has_a_name(page: Page) -> None:
    assert len(page.canvases) == 3
    np.testing.assert_array_equal(page.pixels(0), page.pixels(1))
    assert not page.pixels(2).any()
    assert page.script("return getComputedStyle(canvases()[0]).imageRendering") == "pixelated"
    assert page.browser.find_element(By.ID, "checkpoint").text
    tree = page.browser.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    roles = ("button", "slider", "combobox", "spinbutton", "img", "image", "radio")
    shown = [node for node in tree if not node["ignored"] and node.get("role", {}).get("value") in roles]
    names = [node.get("name", {}).get("value", "") for node in shown]
    assert len(names) > 12
    assert all(names), [node["role"] for node, name in zip(shown, names, strict=True) if not name]
    page.screenshot("desktop")


def test_a_person_drives_by_keyboard_alone(page: Page) -> None:
    page.press(Keys.ENTER)
    page.wait(lambda: page.step >= 5)
    assert page.browser.find_element(By.ID, "play").get_attribute("aria-pressed") == "true"
    page.wait(lambda: page.text("rate").isdecimal() and "ms" in page.text("latency"))
    page.press(Keys.ENTER)
    page.wait(lambda: page.script("return !waiting"))
    page.press("x")
    page.wait(lambda: page.step == 0)
    page.script("held.add('d')")  # a key that is held down
    page.step_once()
    page.script("held.clear()")
    drawn = page.pixels(0)
    page.press(",")
    page.wait(lambda: page.step == 0)
    assert (page.pixels(0) != drawn).any()
    page.press("p")
    assert page.browser.find_element(By.ID, "driver").get_attribute("value") == "expert"
    page.step_once()
    page.press("?")
    assert "move left, right in the picture" in page.text("keys")
    page.browser.find_element(By.CSS_SELECTOR, "#keys button").send_keys(Keys.ENTER)
    page.wait(lambda: not page.browser.find_element(By.ID, "keys").is_displayed())


def test_the_planner_drives_until_the_person_acts(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planner, "CANDIDATES", 2000)  # takes longer than anybody waits
    assert not page.browser.find_element(By.ID, "hint").is_displayed()
    for _ in range(2):
        page.press("p")
    assert page.browser.find_element(By.ID, "driver").get_attribute("value") == "planner"
    page.press(Keys.ENTER)
    page.wait(lambda: "Planner: planning" in page.text("deciding"))
    assert "to take over" in page.text("hint")
    page.screenshot("planning")
    page.script("held.add('d')")
    page.wait(lambda: page.step >= 2)
    page.script("held.clear()")
    assert page.browser.find_element(By.ID, "driver").get_attribute("value") == ""
    page.wait(lambda: not page.browser.find_element(By.ID, "deciding").is_displayed())
    page.press(Keys.ENTER)
    page.wait(lambda: page.script("return !waiting"))
    monkeypatch.setattr(planner, "CANDIDATES", 16)
    page.press("x")
    page.wait(lambda: page.step == 0)
    for _ in range(2):
        page.press("p")
    page.step_once()
    assert "ms" in page.text("decision") or "s" in page.text("decision")
    shown = page.script("return axes.map((axis) => axis.output.textContent)")
    assert shown != ["0.00", "0.00"]  # what the planner did


def test_other_commands_do_not_wait_for_the_planner(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    page.step_once()
    monkeypatch.setattr(planner, "CANDIDATES", 2000)
    for _ in range(2):
        page.press("p")
    page.press(Keys.ENTER)
    page.wait(lambda: "planning" in page.text("deciding"))
    page.press(Keys.ENTER)  # pauses
    page.wait(lambda: page.script("return !waiting"))
    assert page.step == 1
    page.press(".")
    page.wait(lambda: "planning" in page.text("deciding"))
    page.press(",")
    page.wait(lambda: page.step == 0)


def test_keys_move_in_the_directions_of_the_picture(page: Page) -> None:
    for key, action in (("d", [1, 0]), ("a", [-1, 0]), ("w", [0, -1]), ("s", [0, 1])):
        page.script(f"held.add('{key}')")
        assert page.script("return currentAction()") == action
        page.script("held.clear()")


def test_after_a_click_the_keys_drive_again(page: Page) -> None:
    page.browser.find_element(By.ID, "single").click()
    page.wait(lambda: page.step == 1)
    assert page.script("return document.activeElement === document.body")
    page.browser.find_element(By.ID, "single").send_keys(Keys.ENTER)  # presses the button that has the focus
    page.wait(lambda: page.step == 2)
    assert page.script("return document.activeElement.id") == "single"


def test_a_slider_and_a_stick_act(page: Page) -> None:
    slider = page.browser.find_element(By.CSS_SELECTOR, "#controls input")
    slider.send_keys(Keys.END)
    page.wait(lambda: page.script("return currentAction()") == [1, 0])
    page.press("c")
    page.wait(lambda: page.script("return currentAction()") == [0, 0])
    pad = page.browser.find_element(By.CSS_SELECTOR, ".pad")
    hold = webdriver.ActionChains(page.browser).move_to_element_with_offset(pad, 0, -40).click_and_hold()
    hold.perform()
    across, down = page.script("return currentAction()")  # rows of a picture count downwards
    assert (abs(across) < 0.1, down < -0.8) == (True, True)
    webdriver.ActionChains(page.browser).release().perform()
    assert page.script("return currentAction()") == [0, 0]


def test_four_futures_and_one_is_kept(page: Page) -> None:
    page.step_once()
    page.press("g")
    page.wait(lambda: len(page.canvases) == 4)
    page.step_once()
    page.step_once()
    assert "left" in page.text("screen")
    page.screenshot("forked")
    page.press("2")
    page.wait(lambda: len(page.canvases) == 3)
    assert page.step == 3
    assert page.script("return history.length") == 3
    page.press("f")
    page.wait(lambda: len(page.canvases) == 4)
    page.press(Keys.ESCAPE)
    page.wait(lambda: len(page.canvases) == 3)


def test_a_recording_is_saved(page: Page, settings: Settings) -> None:
    page.press("r")
    page.wait(lambda: "Save 0 steps" in page.text("record"))
    for _ in range(3):
        page.step_once()
    page.press("r")
    page.wait(lambda: "videos/toy/played-00000000.mp4" in page.text("saved"))
    assert len(Recordings(settings.out / "imagined").episodes[0]) == 3


def test_pictures_start_episodes_and_others_are_refused(page: Page, tmp_path: Path) -> None:
    Image.new("RGB", (90, 50), (20, 90, 200)).save(tmp_path / "blue.png")
    (tmp_path / "notes.png").write_text("not a picture")
    chooser = page.browser.find_element(By.ID, "picture")
    chooser.send_keys(str(tmp_path / "notes.png"))
    page.wait(lambda: "InvalidFrames: picture: expected a PNG or JPEG file" in page.text("problem"))
    page.screenshot("problem")
    page.step_once()
    chooser.send_keys(str(tmp_path / "blue.png"))
    page.wait(lambda: len(page.canvases) == 1)
    assert (page.pixels(0) == (20, 90, 200)).all()
    assert "cannot begin at a picture" in page.text("note")


def test_a_lost_connection_is_found_again_and_nothing_is_lost(page: Page, house: House, settings: Settings) -> None:
    page.press("r")
    page.wait(lambda: "Save" in page.text("record"))
    page.step_once()
    page.script("socket.close()")
    page.wait(lambda: "The connection is lost" in page.text("status"))
    page.wait(lambda: not page.browser.find_element(By.ID, "status").is_displayed())
    page.step_once()
    assert page.step == 2  # the same session
    assert len(Recordings(settings.out / "imagined").episodes) == 1
    house.stop()
    page.wait(lambda: "The connection is lost" in page.text("status"))
    page.screenshot("lost")
    house.start()
    page.wait(lambda: page.step == 0)  # a new server knows no sessions
    page.step_once()


def test_two_tabs_play_for_themselves(page: Page, house: House) -> None:
    page.step_once()
    first = page.browser.current_window_handle
    page.browser.switch_to.new_window("tab")
    second = Page(page.browser)
    second.open(house.address)
    assert second.step == 0
    second.step_once()
    second.step_once()
    page.browser.switch_to.window(first)
    assert page.step == 1
    page.step_once()


def test_a_session_that_went_on_elsewhere_can_be_taken_back(page: Page, house: House) -> None:
    page.step_once()
    name, first = page.script("return player()"), page.browser.current_window_handle
    page.browser.switch_to.new_window("tab")
    page.open(house.address)
    page.browser.execute_script("sessionStorage.setItem('player', arguments[0])", name)  # as a copied tab has it
    page.open(house.address)
    page.wait(lambda: page.step == 1)
    page.browser.switch_to.window(first)
    page.wait(lambda: "goes on in another tab" in page.text("status"))
    page.browser.find_element(By.ID, "again").click()
    page.wait(lambda: not page.browser.find_element(By.ID, "status").is_displayed())
    page.step_once()


def test_a_phone_shows_everything_without_scrolling_sideways(page: Page) -> None:
    page.resize(390, 844)
    page.step_once()
    assert page.script("return document.documentElement.scrollWidth <= innerWidth")
    heights = page.script("return [...document.querySelectorAll('main button')].map((each) => each.offsetHeight)")
    assert all(height == 0 or height >= 38 for height in heights)  # large enough for a thumb
    page.screenshot("phone")
    page.press("f")
    page.wait(lambda: len(page.canvases) == 4)
    assert page.script("return document.documentElement.scrollWidth <= innerWidth")
    page.screenshot("phone-forked")


def test_discrete_actions_have_buttons_and_keys(browser: Any, discrete_checkpoint: Path, tmp_path: Path) -> None:
    house = House(Settings(str(discrete_checkpoint), tmp_path))
    try:
        browser.switch_to.new_window("tab")
        page = Page(browser)
        page.open(house.address)
        assert page.script("return currentAction()") == 0
        page.script("held.add('d')")
        assert page.script("return currentAction()") == 1
        page.script("held.clear()")
        page.script("held.add('1')")  # by its number
        assert page.script("return currentAction()") == 1
        page.script("held.clear()")
        page.browser.find_element(By.CSS_SELECTOR, "#controls button:nth-child(2)").click()
        assert page.script("return currentAction()") == 1
        page.step_once()
        page.screenshot("discrete")
        assert page.errors() == []
    finally:
        house.stop()


def test_an_environments_own_keys_act(browser: Any, make_checkpoint: Any, tmp_path: Path) -> None:
    space = ActionCodec(gym.spaces.Discrete(3)).describe()
    house = House(Settings(str(make_checkpoint(action_dim=3, tasks=("MountainCar-v0",), action_space=space)), tmp_path))
    try:
        browser.switch_to.new_window("tab")
        page = Page(browser)
        page.open(house.address)
        for keys, action in (("", 1), ("a", 0), ("d", 2), ("ad", 1), ("0", 0)):
            page.script(f"for (const key of '{keys}') held.add(key)")
            assert page.script("return currentAction()") == action, keys
            page.script("held.clear()")
        page.screenshot("own-keys")
        assert page.errors() == []
    finally:
        house.stop()


def test_without_start_states_the_page_explains(browser: Any, discrete_checkpoint: Path, tmp_path: Path) -> None:
    house = House(Settings(str(discrete_checkpoint), tmp_path, simulator=False))
    try:
        browser.switch_to.new_window("tab")
        page = Page(browser)
        browser.get(house.address)
        page.wait(lambda: "CheckpointError: this checkpoint has no start states" in page.text("problem"))
        page.screenshot("no-start-states")
        assert page.errors() == []
    finally:
        house.stop()
