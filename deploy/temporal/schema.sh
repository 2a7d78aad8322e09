#!/bin/sh
# Brings both of Temporal's databases to the schema of this server's version. Twice is fine.
# Where the databases are, and the password, come from SQL_PLUGIN, SQL_HOST, SQL_PORT, SQL_USER and SQL_PASSWORD.
set -eu
versions=/etc/temporal/schema/postgresql/v12

update() { # database, directory of its versions
  temporal-sql-tool --database "$1" setup-schema --version 0.0
  temporal-sql-tool --database "$1" update-schema --schema-dir "$versions/$2/versioned"
}

update temporal temporal
update temporal_visibility visibility
