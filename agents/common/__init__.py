"""What agents share: replay, schedules, demonstrations, evaluation, rollouts in a world model."""
