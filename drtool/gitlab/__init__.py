"""What GitLab's own artefacts mean."""
