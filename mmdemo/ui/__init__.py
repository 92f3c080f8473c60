"""The page: a list of packs over seven tabs, the endpoints, and the options it must be launched with.

`build_demo(studio)` is handed the studio and knows no model. Each tab has a file of its own.
"""

from collections.abc import Callable

import gradio as gr
from starlette.middleware import Middleware

from mmdemo.studio import Studio
from mmdemo.ui import chooser, codebook, denoise, endpoints, grid, reconstruct
from mmdemo.ui.browser import PRIVATE, STATIC, said_plainly, shared_scripts, widget
from mmdemo.ui.gate import MAX_UPLOAD, Gate
from mmdemo.ui.makedata import MakeData
from mmdemo.ui.policy import Policy
from mmdemo.ui.restore import Restore
from mmdemo.ui.sample import Sample

TITLE = "mmdemo"
SYSTEM_FONTS = [  # no web fonts: the page asks nothing of other machines
    *("system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "PingFang SC", "Hiragino Sans GB"),
    *("Microsoft YaHei", "Noto Sans CJK SC", "WenQuanYi Micro Hei", "sans-serif"),
]
MONOSPACED_FONTS = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "DejaVu Sans Mono", "monospace"]


def build_demo(studio: Studio, allow_pull: bool = False) -> gr.Blocks:
    """The page and the endpoints. Loads no model: the tabs ask the studio once somebody looks at them.

    allow_pull: whether whoever sees the page may have any repository fetched from the Hub.
    """
    with endpoints.Page(title=TITLE, analytics_enabled=False) as demo:
        unseen = endpoints.register(studio)  # first, or a handler of the page with an endpoint's name would take it
        gr.HTML(
            f"<h1>{TITLE}</h1><p>See pictures as discrete tokens, and watch a transformer draw new ones.</p>",
            elem_id="title",
            apply_default_css=False,
        )
        pack = chooser.build(studio, allow_pull)
        notice = widget("status", elem_id="notice")

        demo.load(lambda: chooser.listed(studio), None, [pack, notice], **PRIVATE)

        opened = whenever_opened(pack)
        with gr.Tabs(elem_id="tabs", overflow_behavior="wrap") as tabs:
            with tab("Codebook"):
                codebook.build(studio, pack, opened)
            with tab("Reconstruct"):
                reconstruct.build(studio, pack, opened)
            with tab("Sample"):
                sample = Sample(studio, pack)
                sample.connect(opened)
            with tab("Denoise"):
                replay = denoise.build(studio, pack, opened)
            with tab("Restore"):
                Restore(studio, pack).connect(opened)
            with tab("Compare"):
                compared = grid.build(studio, pack, opened)
            with tab("Make data"):
                MakeData(studio, pack).connect(opened)
        replay(sample.pictures, tabs)
        replay(compared, tabs)
        # gradio searches the page from its start for each component that an event reads or writes.
        demo.children.append(demo.children.pop(demo.children.index(unseen)))
    return demo


def tab(name: str) -> gr.Tab:
    known_by = name.lower().replace(" ", "-")
    return gr.Tab(name, id=known_by, elem_id=known_by)


def whenever_opened(pack: gr.components.Component) -> Callable:
    """`opened(show, inputs, outputs)`: calls show for the pack that the page opens with, and whenever it changes.

    after: what opened() gave for an earlier one, to be waited for: a tab's controls fit the pack before its picture is
    there, or a quick hand would set one that the pack then sets back.
    """
    # Listeners of one event wait for each other in gradio's page, those that follow an event run side by side.
    # Not "always_last", which gradio 6.31 triggers again and again without end.
    every_time = {"trigger_mode": "multiple"}
    changed = pack.change(lambda: None, **every_time, **PRIVATE)

    def opened(show: Callable, inputs: list, outputs: list, after=changed, **options) -> gr.events.Dependency:
        return after.then(said_plainly(show), inputs, outputs, **every_time, **options)

    return opened


def launch_options(
    demo: endpoints.Page, sweep: Callable[[], None] = lambda: None, status: Callable[[], str] = lambda: "ready"
) -> dict:
    """What the page needs from `launch()` to look as it should, keep to itself and store nothing in the browser.

    sweep: called after every upload.  status: what /health says; all is well if it is "ready".
    """
    theme = gr.themes.Base(
        primary_hue=gr.themes.colors.indigo,
        neutral_hue=gr.themes.colors.slate,
        radius_size=gr.themes.sizes.radius_lg,
        font=SYSTEM_FONTS,
        font_mono=MONOSPACED_FONTS,
    ).set(
        body_text_color_subdued="*neutral_600",  # the theme's own is too pale to read
        body_text_color_subdued_dark="*neutral_400",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_400",
    )
    return {
        "theme": theme,
        "css_paths": [STATIC / "page.css"],
        # On a phone gradio hides the link before this dot. A rule in page.css would not reach the footer.
        "head": "<style>@media (max-width: 640px) { footer .divider { display: none !important } }"
        ".gradio-container { overflow: clip !important }"  # as gradio's hidden, but what is sticky stays in sight
        ":root:has(body.dark) { color-scheme: dark }</style>" + shared_scripts(),  # scrollbars
        "footer_links": ["api", "settings"],
        "max_file_size": MAX_UPLOAD,  # said here too, the browser refuses a larger one before it sends it
        "max_threads": 96,  # those of runs that wait for their turn among them
        "app_kwargs": {
            "middleware": [Middleware(Gate(lambda: demo.line, sweep, status)), Middleware(Policy)],
            "exception_handlers": dict.fromkeys(endpoints.UNANSWERABLE, endpoints.unanswerable),
        },
        "state_session_capacity": 500,  # each open page's pictures are kept in memory
        "run_history": False,
        "ssr_mode": False,
        "enable_monitoring": False,
        "quiet": True,
        "share": False,
        "pwa": False,
        "mcp_server": False,
    }
