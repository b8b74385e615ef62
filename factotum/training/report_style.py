"""The report's style sheet: readable on white, printable."""

from __future__ import annotations

STYLE = """
:root { --ink: #1f2933; --soft: #6b7785; --line: #d9dee4; --wash: #f5f7f9; --mark: #2563a8; }
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, -apple-system, "Segoe UI", "Helvetica Neue", Arial, sans-serif;
  color: var(--ink);
  background: #fff; max-width: 1080px; margin: 0 auto; padding: 32px 28px 64px; }
h1 { font-size: 28px; margin: 0 0 2px; letter-spacing: -.01em; }
h2 { font-size: 19px; margin: 40px 0 10px; padding-bottom: 5px; border-bottom: 1px solid var(--line); }
h3 { font-size: 15px; margin: 22px 0 8px; }
p { margin: 6px 0 10px; max-width: 90ch; }
.soft, figcaption, .note { color: var(--soft); }
.note { font-size: 13px; max-width: none; }
.cards { display: flex; flex-wrap: wrap; gap: 12px; margin: 18px 0 20px; }
.card { flex: 1 1 150px; border: 1px solid var(--line); border-radius: 8px; padding: 12px 16px; }
.card b { display: block; font-size: 26px; line-height: 1.2; font-variant-numeric: tabular-nums; }
.card span { font-size: 13px; color: var(--soft); }
table { border-collapse: collapse; width: 100%; font-size: 13.5px; font-variant-numeric: tabular-nums; }
th { text-align: right; font-weight: 600; color: var(--soft); border-bottom: 1px solid var(--line);
  padding: 5px 9px;
  vertical-align: bottom; }
td { text-align: right; border-bottom: 1px solid #eef1f4; padding: 4px 9px; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
td.words { text-align: left; white-space: normal; color: var(--soft); }
tr.family td { background: var(--wash); font-weight: 600; }
tr.main td { font-weight: 600; }
td.bar { text-align: left; min-width: 190px; }
.track { display: inline-block; width: 84px; height: 9px; background: #e8ecf0; border-radius: 2px;
  margin-right: 8px;
  overflow: hidden; vertical-align: baseline; }
.track i { display: block; height: 100%; background: var(--mark); }
.track i.low { background: #c4622d; }
.wide { overflow-x: auto; }
figure { margin: 0 0 20px; break-inside: avoid; }
figure svg, .plot svg { max-width: 100%; height: auto; }
figcaption { font-size: 13px; margin-top: 5px; }
figcaption b { color: var(--ink); }
.pictures { display: flex; gap: 12px; align-items: flex-start; }
.pictures img { height: 128px; flex: none; }
.pictures .strip { flex: 0 1 auto; min-width: 0; height: auto; max-height: 128px; align-self: center; }
pre { background: var(--wash); border: 1px solid var(--line); border-radius: 6px; padding: 10px 12px;
  font-size: 12.5px;
  overflow-x: auto; white-space: pre-wrap; overflow-wrap: anywhere; }
details > summary { cursor: pointer; color: var(--mark); }
@media print {
  body { max-width: none; padding: 0; font-size: 11px; }
  table { font-size: 10px; } td, th { padding: 2px 5px; }
  tr, .card { break-inside: avoid; } h2, h3 { break-after: avoid; }
  .film { display: none; } .wide { overflow: visible; }
  .track, .track i, tr.family td { -webkit-print-color-adjust: exact; print-color-adjust: exact; }
}
"""
