"""The style sheet of a page: light and dark as the reader's system asks, narrow and wide, on paper."""

# Rows that have colours of their own; the others share a grey.
COLOURS = 8

CSS = """
:root {
  color-scheme: light dark;
  --ground: #fbfbf9; --card: #ffffff; --ink: #1c1c1a; --soft: #62625c; --rule: #dcdcd6; --grid: #e9e9e4;
  --mark: #eef3fa;
  --s0: #2a6fc9; --s1: #d1602a; --s2: #178f68; --s3: #7a4fc4; --s4: #b8860b; --s5: #c93a5e; --s6: #2b93a8;
  --s7: #7a6a58;
  --rest: #a3a39c;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #161615; --card: #1e1e1d; --ink: #ecebe6; --soft: #a5a49d; --rule: #3a3a37; --grid: #2c2c2a;
    --mark: #20303f;
    --s0: #6aa5f0; --s1: #ee8a55; --s2: #43bd92; --s3: #a98bea; --s4: #d9b04a; --s5: #ee7894; --s6: #5cc1d4;
    --s7: #b5a48f;
    --rest: #73736d;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 76rem; background: var(--ground); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; overflow-wrap: anywhere;
}
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .25rem; }
h2 {
  font-size: 1.2rem; line-height: 1.3; margin: 2.5rem 0 .5rem; padding-top: 1.25rem;
  border-top: 1px solid var(--rule);
}
h3 { font-size: 1rem; margin: 2rem 0 .25rem; }
p { margin: .35rem 0 .75rem; max-width: 52rem; }
.soft, figcaption { color: var(--soft); font-size: .87rem; }
.lead { font-size: 1.05rem; }
.scroll {
  overflow-x: auto; margin: .5rem 0; border: 1px solid var(--rule); border-radius: 6px;
  background: var(--card);
}
table {
  border-collapse: separate; border-spacing: 0; width: 100%; font-size: .87rem; font-variant-numeric: tabular-nums;
}
th, td { padding: .4rem .65rem; text-align: right; white-space: nowrap; border-top: 1px solid var(--grid); }
thead th {
  border-top: 0; border-bottom: 1px solid var(--rule); color: var(--soft); font-weight: 600;
  vertical-align: bottom;
}
th.text, tbody th { text-align: left; }
tbody th { font-weight: 500; position: sticky; left: 0; background: var(--card); }
tbody th { white-space: normal; min-width: 9.5rem; max-width: 22rem; }
td.value {
  font: .8rem ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; text-align: left; white-space: normal;
}
td.value { min-width: 7rem; max-width: 16rem; }
td.best, td.sure { font-weight: 650; background: var(--mark); }
td .spread { color: var(--soft); font-weight: 400; font-size: .92em; }
.key {
  display: inline-block; min-width: 1.45em; padding: 0 .3em; margin-right: .5em; border-radius: 4px;
  text-align: center;
  font-size: .8em; font-weight: 650; line-height: 1.5; color: var(--card); background: var(--c);
}
.charts {
  display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 28rem), 1fr)); gap: 1rem;
  margin: .75rem 0;
}
figure { margin: 0; padding: .75rem; border: 1px solid var(--rule); border-radius: 6px; background: var(--card); }
figcaption { margin-bottom: .35rem; }
svg { display: block; width: 100%; max-width: 36rem; height: auto; }
svg text {
  font: 11.5px system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; fill: var(--soft);
}
.small svg text { font-size: 14px; }
svg .middle { text-anchor: middle; }
svg .end { text-anchor: end; }
svg .label { fill: var(--ink); font-weight: 600; }
svg .grid { stroke: var(--grid); fill: none; }
svg .base { stroke: var(--soft); fill: none; }
svg .curve { stroke: var(--c); stroke-width: 2; fill: none; stroke-linejoin: round; }
svg .dot { fill: var(--c); stroke: var(--card); stroke-width: 1.5; }
svg .bar { fill: var(--c); }
svg .whisker { stroke: var(--ink); fill: none; }
.charts.small { grid-template-columns: repeat(auto-fill, minmax(min(100%, 21rem), 1fr)); }
.charts h3 { margin-top: 1rem; }
.legend {
  display: flex; flex-wrap: wrap; gap: .2rem 1rem; margin: .5rem 0 0; padding: 0; list-style: none;
  font-size: .85rem;
}
ul.notes { padding-left: 1.2rem; color: var(--soft); font-size: .9rem; }
details > summary { cursor: pointer; color: var(--soft); margin: .5rem 0; }
.s0 { --c: var(--s0); } .s1 { --c: var(--s1); } .s2 { --c: var(--s2); } .s3 { --c: var(--s3); }
.s4 {
  --c: var(--s4); } .s5 { --c: var(--s5); } .s6 { --c: var(--s6); } .s7 { --c: var(--s7);
  } .rest { --c: var(--rest);
}
@media (max-width: 40rem) {
  body { padding: 1rem .75rem 3rem; }
  tbody th { min-width: 8.75rem; max-width: 10rem; }
  th, td { padding: .35rem .5rem; }
  figure { padding: .5rem; }
  svg text { font-size: 13.5px; }
}
@media print {
  :root { --ground: #fff; --card: #fff; }
  body { max-width: none; font-size: 11px; }
  .scroll { overflow: visible; border: 0; }
  figure, tr { break-inside: avoid; }
}
"""
