"""What the file of a ledger holds."""

from __future__ import annotations

from lmctl.database import Layout

SCHEMA = 2

_TABLES = """
CREATE TABLE owned (path TEXT PRIMARY KEY, kind TEXT NOT NULL, artifact TEXT NOT NULL, size INTEGER NOT NULL,
  mtime_ns INTEGER NOT NULL, inode INTEGER NOT NULL, device INTEGER NOT NULL, sha256 TEXT NOT NULL,
  verified_at REAL NOT NULL, acquired_at REAL NOT NULL, protect INTEGER NOT NULL, unreferenced_since REAL);
CREATE TABLE generation (id INTEGER PRIMARY KEY, at REAL NOT NULL, config_hash TEXT NOT NULL, lock_hash TEXT NOT NULL,
  plan TEXT NOT NULL, result TEXT NOT NULL);
CREATE TABLE applied (address TEXT PRIMARY KEY, fields TEXT NOT NULL, hash TEXT NOT NULL,
  generation INTEGER NOT NULL);
CREATE TABLE drift (fingerprint TEXT PRIMARY KEY, class TEXT NOT NULL, address TEXT NOT NULL, desired TEXT,
  applied TEXT, observed TEXT, first_seen REAL NOT NULL, last_seen REAL NOT NULL, count INTEGER NOT NULL,
  resolved_at REAL);
CREATE TABLE hold (profile TEXT PRIMARY KEY, reason TEXT NOT NULL, since REAL NOT NULL);
CREATE TABLE port (profile TEXT PRIMARY KEY, listen TEXT NOT NULL);
CREATE TABLE unconfirmed (profile TEXT PRIMARY KEY, since REAL NOT NULL)
"""
# what leads from a schema to the next one
_STEPS = {
    1: """
ALTER TABLE generation ADD COLUMN restores INTEGER;
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
ALTER TABLE hold RENAME TO earlier;
CREATE TABLE hold (profile TEXT NOT NULL, reason TEXT NOT NULL, since REAL NOT NULL, PRIMARY KEY (profile, reason));
INSERT INTO hold SELECT profile, reason, since FROM earlier;
DROP TABLE earlier
"""
}
LAYOUT = Layout(SCHEMA, "0.1.0", _TABLES, _STEPS)
