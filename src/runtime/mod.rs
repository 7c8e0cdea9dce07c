//! Running a script: create, start, state, kill, delete, exec; cgroups.
