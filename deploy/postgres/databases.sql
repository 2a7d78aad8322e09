-- Runs once, when the volume is empty: a role for dogwatch and one for Temporal, each with databases of its own that the other cannot open.
-- \getenv keeps the passwords out of every argument list.
\getenv dogwatch_password DATABASE_PASSWORD
\getenv temporal_password TEMPORAL_DATABASE_PASSWORD

create role dogwatch login password :'dogwatch_password';
create database dogwatch owner dogwatch;

create role temporal login password :'temporal_password';
create database temporal owner temporal;
create database temporal_visibility owner temporal;

revoke connect on database dogwatch, temporal, temporal_visibility from public;
